import { get } from "./api.js";
import { field, h, said, table } from "./dom.js";

const HEADS = ["setting", "value", "from", "what it is"];
const words = (value) => (value === null || value === "" ? "-" : typeof value === "object" ? JSON.stringify(value) : String(value));
const from = (one) => (one.source === "default" ? "default" : one.source === "command" ? "the command that started it" : `${one.source} ${one.where}`.trim());
const row = (one) => [h("code", {}, one.name), one.hidden ? h("span", { class: "soft" }, words(one.value)) : said(words(one.value)), said(from(one)), one.about];

export async function settings(place, signal) {
  const { data } = await get("/v1/settings", signal);
  const looked = h("input", { type: "search" });
  const list = h("div", {});
  place.append(
    h("p", { class: "soft" }, "What the stack was started with, read-only. Change the profile, or a variable such as ",
      h("code", {}, "MAINSPRING_GATEWAY__PORT"), ", and start it again. Secrets are not shown."),
    h("form", { role: "search", onsubmit: (event) => event.preventDefault() }, field("Find", looked)), list,
  );
  const draw = () => {
    const wanted = looked.value.trim().toLowerCase();
    const found = data.filter((one) => `${one.name} ${one.about} ${from(one)}`.toLowerCase().includes(wanted));
    const set = found.filter((one) => one.source !== "default");
    const rest = Object.groupBy(found.filter((one) => one.source === "default"), (one) => one.name.split(".")[0]);
    list.replaceChildren(
      table("Set", HEADS, set.map(row)),
      h("h2", {}, "Defaults"),
      ...Object.entries(rest).map(([section, ones]) => h("details", { open: Boolean(wanted) }, h("summary", {}, `${section} (${ones.length})`), table(`Defaults of ${section}`, HEADS, ones.map(row)))),
    );
  };
  looked.addEventListener("input", draw);
  draw();
}
