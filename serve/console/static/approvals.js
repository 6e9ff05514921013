import { get, post } from "./api.js";
import { ago, euros, field, h, notice, pairs, person, said, shown } from "./dom.js";
import { every } from "./poll.js";


export async function approvals(place, signal) {
  const who = person();
  const list = h("ul", { class: "list", "aria-label": "What waits for a person" });
  const hint = h("p", { class: "soft" }, h("kbd", {}, "j"), " ", h("kbd", {}, "k"), " to choose, ", h("kbd", {}, "Enter"), " for the evidence, ",
    h("kbd", {}, "a"), " approves, ", h("kbd", {}, "n"), " approves less, ", h("kbd", {}, "d"), " denies");
  place.append(h("div", { class: "row" }, field("Your name, kept with each answer", who.input)), hint, list);
  const answering = new Set();
  let rows = [];
  let chosen = null; // an id, "" for none; null until something is there
  let at = 0; // where the chosen one is, or was

  function mark() {
    for (const item of list.children) item.setAttribute("aria-current", String(item.dataset.id === chosen));
  }
  function choose(step) {
    // Behind one that is gone the next one is where it was.
    const to = chosen ? at + step : at;
    const next = rows[Math.min(rows.length - 1, Math.max(0, to))];
    if (!next) return;
    chosen = next.id;
    at = rows.indexOf(next);
    mark();
    list.querySelector(`[data-id="${CSS.escape(chosen)}"]`)?.scrollIntoView({ block: "nearest" });
  }
  async function answer(row, verb, more = {}) {
    const by = who.named("the answer");
    if (!by) return;
    if (answering.has(row.id)) return;
    answering.add(row.id);
    try {
      const done = await post(`/v1/approvals/${row.id}/${verb}`, { by, ...more });
      notice(`${row.tool}: ${done.state}`);
    } catch (error) {
      answering.delete(row.id);
      notice(error.message); // of two who answer, the second one reads who was first
    }
    await draw();
  }
  const less = (row) => list.querySelector(`[data-id="${CSS.escape(row.id)}"] input`)?.focus();

  function item(row) {
    const evidence = h("div", {});
    const most = h("input", { type: "number", min: "0.01", step: "0.01", max: row.amount_cents / 100, size: 8 });
    const narrowed = row.amount_cents > 0
      ? h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); if (most.value) answer(row, "approve", { at_most_cents: Math.round(100 * Number(most.value)) }); } },
        field("At most, EUR", most), h("button", { class: "quiet" }, "Approve less"))
      : null;
    const look = h("details", { ontoggle: async (event) => { if (event.target.open && !evidence.hasChildNodes()) await explain(row, evidence); } },
      h("summary", {}, "Evidence"), evidence);
    const element = h("li", {},
      h("strong", {}, row.tool), row.amount_cents ? ` ${euros(row.amount_cents)}` : "", " for ", said(row.agent), " ",
      h("span", { class: "soft" }, `${row.workflow}, asked ${ago(row.created_at)}`), " ",
      h("a", { href: `#/runs/${encodeURIComponent(row.run)}` }, "its run"),
      h("div", { class: "row" }, h("button", { type: "button", onclick: () => answer(row, "approve") }, "Approve"),
        h("button", { type: "button", class: "danger", onclick: () => answer(row, "deny") }, "Deny"), narrowed), look);
    element.dataset.id = row.id;
    return element;
  }
  async function draw() {
    const found = (await get("/v1/approvals?limit=100", signal)).data;
    if (found.map((r) => r.id).join() === rows.map((r) => r.id).join() && list.hasChildNodes()) return;
    const gone = chosen && !found.some((row) => row.id === chosen);
    rows = found;
    if (gone && !answering.has(chosen)) {
      notice("The chosen one was answered elsewhere or ran out; none is chosen now.");
      chosen = rows.length ? "" : null;
    } else if (gone || chosen === null) {
      chosen = rows[Math.min(at, rows.length - 1)]?.id ?? null;
    }
    arrange();
    at = chosen ? rows.findIndex((row) => row.id === chosen) : at;
    mark();
  }
  // What is there already is not touched: whoever types in it, or reads it, goes on.
  function arrange() {
    const there = new Map([...list.children].map((element) => [element.dataset.id, element]));
    const wanted = rows.length ? rows.map((row) => there.get(row.id) ?? item(row)) : [h("li", { class: "soft" }, "Nothing waits.")];
    for (const element of there.values()) if (!wanted.includes(element)) element.remove();
    wanted.forEach((element, i) => { if (list.children[i] !== element) list.insertBefore(element, list.children[i] ?? null); });
  }
  document.addEventListener("keydown", (event) => {
    // A held key repeats itself: one press is one answer.
    if (event.repeat || event.target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = rows.find((one) => one.id === chosen);
    if (event.key === "j") choose(1);
    else if (event.key === "k") choose(-1);
    else if (!row) return;
    else if (event.key === "a") answer(row, "approve");
    else if (event.key === "d") answer(row, "deny");
    else if (event.key === "n") less(row);
    else if (event.key === "Enter" && event.target.tagName !== "BUTTON" && event.target.tagName !== "A" && event.target.tagName !== "SUMMARY") {
      const details = list.querySelector(`[data-id="${CSS.escape(chosen)}"] details`);
      details.open = !details.open;
    } else return;
    event.preventDefault();
  }, { signal });
  await every(3000, signal, place, draw);
}

async function explain(row, place) {
  const { evidence } = await get(`/v1/approvals/${row.id}`);
  place.append(
    pairs({ Why: evidence.reason, Rules: evidence.rules.join(", "), Asked: evidence.asked }),
    h("h3", {}, "Arguments"), shown(evidence.arguments), h("h3", {}, "What policy looked at"), shown(evidence.facts),
    h("h3", {}, "What the run had found"), shown(evidence.phases),
    ...evidence.passages.map((p) => h("p", { class: "text" }, h("span", { class: "soft" }, `${p.source}: `), said(p.text))),
  );
}
