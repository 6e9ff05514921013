import { get } from "./api.js";
import { choice, field, h, said, table, when } from "./dom.js";
import { pages, times } from "./pages.js";

const ANSWERS = ["", "allow", "modify", "ask", "wait", "deny"];
const OUTCOMES = ["", "waits", "not done", "started", "done", "refused", "unknown"];
const HEADS = ["at", "run", "step", "tool", "answer", "rule", "outcome"];

export async function audit(place, signal) {
  const run = h("input", { maxlength: 128 });
  const shown = h("div", {});
  const asked = {
    run: field("Run", run, true), tool: field("Tool", h("input", { maxlength: 128, size: 12 })),
    answer: field("Answer", choice(ANSWERS, "")), outcome: field("Outcome", choice(OUTCOMES, "")),
    workflow: field("Workflow", h("input", { maxlength: 128, size: 12 })), agent: field("Agent", h("input", { maxlength: 128, size: 12 })),
    ...times(),
  };
  place.append(
    h("p", { class: "soft" }, "What policy decided and what became of it, the newest first. A run's receipts are made from its journal, whose chain of hashes is verified first; ",
      h("code", {}, "mainspring audit verify"), " checks all of it against the signed checkpoints, and ", h("code", {}, "mainspring audit export"), " takes it away."),
    shown,
  );
  await pages(place, signal, "/v1/receipts", asked, (data) => table("Receipts", HEADS, data.map((r) => [
    when(r.at), h("button", { type: "button", class: "link", title: "Verify this run's receipts", onclick: () => verify(r.run) }, r.run),
    said(r.step), r.tool, r.answer, said(r.rule), r.outcome,
  ])));

  async function verify(id) {
    try {
      const found = await get(`/v1/runs/${encodeURIComponent(id)}/receipts`, signal);
      const lines = new Blob([found.data.map((r) => `${JSON.stringify(r)}\n`).join("")], { type: "application/jsonl" });
      const away = h("a", { href: "#", download: `receipts-${id}.jsonl`, onclick: () => {
        away.href = URL.createObjectURL(lines);
        setTimeout(() => URL.revokeObjectURL(away.href), 10000);
      } }, "Download");
      shown.replaceChildren(
        h("p", { class: "good", role: "status" }, `${id}: the chain of ${found.verified_events} events is whole. `, h("a", { href: `#/runs/${encodeURIComponent(id)}` }, "The run"), " ", away),
        table(`Receipts of ${id}`, ["step", "tool", "decision", "rule", "outcome", "at", "hash"], found.data.map((r) => [
          said(r.step), r.action.tool, r.decision.answer, said(r.decision.rule), r.outcome.state, when(r.outcome.at ?? r.decision.at), h("code", {}, r.hash.slice(0, 12)),
        ])),
      );
    } catch (error) {
      if (!signal.aborted) shown.replaceChildren(h("p", { class: "bad", role: "alert" }, error.message));
    }
    shown.scrollIntoView({ block: "start" });
  }
}
