// A list in pages: filters above it, and the way to what is older. The newest page is kept current.

import { get } from "./api.js";
import { field, h, notice } from "./dom.js";
import { every } from "./poll.js";

const AT_ONCE = 50;
const AGAIN_MS = 5000;

// The filters by time, as labelled inputs.
export const times = () => ({
  since: field("Since", h("input", { type: "date" })), until: field("Before", h("input", { type: "date" })),
});

// `filters` are labels around inputs by the names that the API gives them; `drawn` makes a page of rows.
export async function pages(place, signal, path, filters, drawn) {
  const list = h("div", {});
  const told = h("p", { class: "soft", role: "status" });
  let before = []; // what each page that is gone through was asked for with
  let after = "";
  let last = "";
  let was = "";
  const newer = h("button", { type: "button", class: "quiet", onclick: () => { after = before.pop() ?? ""; show(); } }, "Newer");
  const older = h("button", { type: "button", class: "quiet", onclick: () => { before.push(after); after = last; show(); } }, "Older");
  const form = h("form", { class: "row", role: "search", onsubmit: (event) => event.preventDefault() }, Object.values(filters));
  place.append(form, list, h("p", { class: "row" }, newer, older), told);

  let asking = 0;
  async function draw() {
    const mine = ++asking;
    const asked = new URLSearchParams({ limit: String(AT_ONCE) });
    for (const [name, label] of Object.entries(filters)) {
      const value = label.querySelector("input, select").value.trim();
      if (value) asked.set(name, value);
    }
    if (after) asked.set("after", after);
    const found = await get(`${path}?${asked}`, signal);
    if (mine !== asking) return; // of two that are asked for, the later one is shown
    last = found.last_id ?? "";
    const now = JSON.stringify(found.data);
    if (now !== was) list.replaceChildren(drawn(found.data)); // what is the same keeps its focus
    was = now;
    newer.disabled = !after;
    older.disabled = !found.has_more;
    told.textContent = found.behind ? `${found.behind} runs have moved and are not taken in yet.` : "";
  }
  const show = () => draw().catch((error) => { if (!signal.aborted) notice(error.message); });
  form.addEventListener("change", () => { before = []; after = ""; show(); });
  await every(AGAIN_MS, signal, place, async () => { if (!after) await draw(); });
}
