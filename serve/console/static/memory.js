import { get, post } from "./api.js";
import { ago, field, h, notice, pairs, said, shown, when } from "./dom.js";

export async function memory(place, signal) {
  const text = h("input", { required: true, maxlength: 2000, type: "search" });
  const subject = h("input", { maxlength: 128 });
  const list = h("ul", { class: "list", "aria-label": "Records" });
  const health = h("div", {});
  const form = h("form", { class: "row", role: "search" }, field("What is known about", text, true), field("Subject", subject), h("button", {}, "Search"));
  place.append(form, list, h("h2", {}, "Health"), health);
  const forget = async (id, element) => {
    const why = prompt("Why is it to be forgotten? The receipt keeps this.");
    if (!why) return;
    try {
      const receipt = await post("/v1/memory/forget", { ids: [id], by: "console", why }, signal);
      element.replaceChildren(h("strong", {}, "Forgotten."), shown(receipt));
    } catch (error) {
      notice(error.message);
    }
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const asked = { text: text.value, k: 10, ...(subject.value.trim() ? { subject: subject.value.trim() } : {}) };
      const { data } = await post("/v1/memory/search", asked, signal);
      list.replaceChildren(...(data.length ? data.map((hit) => item(hit, forget)) : [h("li", { class: "soft" }, "Nothing bears on that.")]));
    } catch (error) {
      if (!signal.aborted) notice(error.message);
    }
  });
  health.append(shown(await get("/v1/memory/health", signal)));
}

function item(hit, forget) {
  const record = hit.record ?? hit;
  const element = h("li", {});
  element.append(
    h("p", { class: "text" }, said(record.text)),
    pairs({
      Score: Number(hit.score).toFixed(3), Why: hit.reason, Source: record.source, Kind: `${record.tier}, ${record.kind}`, Trust: record.trust,
      Labels: (record.labels ?? []).join(", "), Subject: record.subject, Parents: (record.parents ?? []).join(", "),
      Of: h("time", { title: when(record.event_at) }, ago(record.event_at)),
    }),
    h("button", { type: "button", class: "danger", onclick: () => forget(record.id, element) }, "Forget"),
  );
  return element;
}
