// The help-desk: tickets by status, and one ticket as a thread with what a person may do to it.

import { get, post } from "./api.js";
import { choice, field, h, notice, pairs, person, said, table, when } from "./dom.js";
import { pages } from "./pages.js";
import { every } from "./poll.js";

const AGAIN_MS = 3000;
const STATUSES = ["", "escalated", "held", "open", "replied", "assigned", "closed"];
const WHO = { customer: "customer", agent: "agent", person: "person", note: "note, not sent" };
const HEADS = ["ticket", "status", "held by", "customer", "subject", "last word", "#rating"];

export async function tickets(place, signal) {
  const filters = { status: field("Status", choice(STATUSES, "")) };
  const drawn = (rows) => table("Tickets", HEADS, rows.map((row) => [
    h("a", { href: `#/tickets/${encodeURIComponent(row.id)}` }, row.id), row.status, said(row.held_by), said(row.name), said(row.subject),
    when(row.last) || row.received, row.score ?? "",
  ]));
  await pages(place, signal, "/v1/tickets", filters, drawn);
}

export async function ticket(place, signal, id) {
  const path = `/v1/tickets/${encodeURIComponent(id)}`;
  const who = person();
  const text = h("textarea", { rows: 5, maxlength: 20000 });
  const macro = choice([""], "");
  const thread = h("ol", { class: "list", "aria-label": "What was said" });
  const about = h("div", {});
  const more = h("details", {}, h("summary", {}, "Customer, orders, other tickets"));
  const rest = h("div", {});
  more.append(rest);
  let was = "";
  let busy = false;

  async function act(name, body, done) {
    const by = who.named("what is done");
    if (!by) return;
    if (busy) return; // one press is one act
    busy = true;
    try {
      draw(await post(`${path}/${name}`, { by, ...body }));
      text.value = "";
      macro.value = "";
      notice(done);
    } catch (error) {
      notice(error.message); // of two people, the second one reads who was first
    } finally {
      busy = false;
    }
  }
  const answer = () => {
    if (!text.value.trim() && !macro.value) return text.focus();
    act("answer", text.value.trim() ? { text: text.value } : { macro: macro.value }, "Sent to the customer.");
  };
  const button = (label, run, style = null) => h("button", { type: "button", class: style, onclick: run }, label);
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); answer(); } },
    h("div", { class: "row" }, field("Your name, kept with what you do", who.input), field("Macro, where nothing is written", macro)),
    field("Answer to the customer, or a note for the agent", text, true),
    h("div", { class: "row" },
      button("Take it", () => act("take", {}, "It is yours; no agent answers it."), "quiet"), h("button", {}, "Send answer"),
      button("Give back with this note", () => act("return", { note: text.value }, "The agents have it again."), "quiet"),
      button("Close", () => act("close", {}, "Closed."), "quiet")));
  place.append(h("p", {}, h("a", { href: "#/tickets" }, "All tickets")), about, thread, form, more);

  const line = (author, at, words) => h("li", {}, h("span", { class: "soft" }, `${author}, ${at}`), h("p", { class: "text" }, said(words)));
  function draw(found) {
    const now = JSON.stringify(found);
    if (now === was) return; // who reads, or has chosen something, goes on
    was = now;
    about.replaceChildren(h("h2", {}, said(found.subject || found.id)), pairs({
      Ticket: found.id, Status: found.status, "Held by": found.held?.by, "Handed over": found.escalation?.reason,
      Rating: found.rating ? `${found.rating.score} of 5 ${found.rating.comment}` : "",
    }), found.escalation ? h("details", {}, h("summary", {}, "Summary for who takes it"), h("pre", {}, said(found.escalation.summary))) : "");
    thread.replaceChildren(line(found.customer.name || "customer", found.received, found.body),
      ...found.messages.map((m) => line(m.by ? `${m.by} (${WHO[m.author]})` : WHO[m.author], when(m.at), m.text)));
    const chosen = macro.value;
    macro.replaceChildren(h("option", { value: "" }, "none"), ...found.macros.map((m) => h("option", { value: m.name, selected: m.name === chosen }, `${m.name}: ${m.about}`)));
    rest.replaceChildren(pairs({ Name: found.customer.name, "E-mail": found.customer.email, Since: found.customer.since }),
      table("Orders", ["order", "item", "status", "#total"], found.orders.map((o) => [o.id, said(o.item), o.status, `${(o.total_cents / 100).toFixed(2)} ${o.currency}`])),
      table("Other tickets", ["ticket", "subject", "status", "received"], found.other_tickets.map((t) => [h("a", { href: `#/tickets/${encodeURIComponent(t.id)}` }, t.id), said(t.subject), t.status, t.received])));
  }
  await every(AGAIN_MS, signal, place, async () => draw(await get(path, signal)));
}
