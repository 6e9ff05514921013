import { get } from "./api.js";
import { field, h, notice, said, table, when } from "./dom.js";

export async function audit(place, signal) {
  const id = h("input", { maxlength: 128, required: true, list: "known-runs" });
  const known = h("datalist", { id: "known-runs" });
  const list = h("div", {});
  const form = h("form", { class: "row" }, field("Run", id, true), known, h("button", {}, "Verify and show"));
  place.append(h("p", { class: "soft" }, "A run's receipts are made from its journal, whose chain of hashes is verified first. ",
    h("code", {}, "mainspring audit verify"), " checks all of it against the signed checkpoints, and ", h("code", {}, "mainspring audit export"), " takes it away."), form, list);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const found = await get(`/v1/runs/${encodeURIComponent(id.value.trim())}/receipts`, signal);
      list.replaceChildren(
        h("p", { class: "good" }, `The chain of ${found.verified_events} events is whole.`),
        table("Receipts", ["step", "tool", "decision", "rule", "outcome", "at"], found.data.map((r) => [
          said(r.step), r.action?.tool ?? "", r.decision?.answer ?? "", said(r.decision?.rule ?? ""), said(r.outcome?.state ?? ""), when(r.outcome?.at ?? r.decision?.at),
        ])),
      );
    } catch (error) {
      list.replaceChildren(h("p", { class: "bad", role: "alert" }, error.message));
    }
  });
  try {
    const { data } = await get("/v1/runs?limit=100", signal);
    known.append(...data.map((run) => h("option", { value: run.id }, `${run.workflow} ${run.decision ?? run.status}`)));
  } catch (error) {
    if (!signal.aborted) notice(error.message);
  }
}
