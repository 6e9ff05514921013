// Elements without markup: a text is always a text, whoever wrote it.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return element;
}

// What a person or a model wrote: kept apart, so that its direction turns nothing around it.
export const said = (text) => h("bdi", { dir: "auto" }, String(text ?? ""));

export const usd = (amount) => `$${Number(amount ?? 0).toFixed(amount && amount < 0.01 ? 6 : 4)}`;
export const euros = (cents) => `${(cents / 100).toFixed(2)} EUR`;
export const seconds = (s) => (s < 1 ? `${Math.round(1000 * s)} ms` : `${s.toFixed(1)} s`);
export const when = (at) => (at ? new Date(1000 * at).toLocaleString() : "");

export function ago(at, now = Date.now() / 1000) {
  const s = Math.max(0, now - at);
  if (s < 90) return `${Math.round(s)} s ago`;
  if (s < 5400) return `${Math.round(s / 60)} min ago`;
  return s < 129600 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`;
}

export function table(caption, heads, rows) {
  const head = heads.map((name) => h("th", { scope: "col", class: name.startsWith("#") ? "number" : null }, name.replace(/^#/, "")));
  const body = rows.map((cells) => h("tr", {}, cells.map((cell, i) => h("td", { class: heads[i].startsWith("#") ? "number" : null }, cell))));
  const none = h("tr", {}, h("td", { colspan: heads.length, class: "soft" }, "none"));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body.length ? body : none)));
}

export function pairs(fields) {
  return h("dl", {}, Object.entries(fields).filter(([, v]) => v !== null && v !== undefined && v !== "")
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : said(value))]));
}

export const shown = (value) => h("pre", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2));

export function card(value, label, tone = "") {
  return h("div", { class: "card" }, h("b", { class: tone }, value), h("span", {}, label));
}

export function field(label, input, wide = false) {
  return h("label", { class: wide ? "wide" : null }, label, input);
}

export function choice(names, chosen) {
  return h("select", {}, names.map((name) => h("option", { value: name, selected: name === chosen }, name || "all")));
}

// Who acts: a name that this browser remembers. `named` is it, or "" once the person was asked for it.
export function person() {
  const KEY = "mainspring-by";
  const input = h("input", { value: localStorage.getItem(KEY) ?? "", autocomplete: "name", maxlength: 60 });
  input.addEventListener("input", () => localStorage.setItem(KEY, input.value));
  const named = (what) => {
    const name = input.value.trim();
    if (!name) {
      input.focus();
      notice(`Say who you are first: ${what} is kept with your name.`);
    }
    return name;
  };
  return { input, named };
}

export function notice(text) {
  const line = h("p", {}, text);
  document.getElementById("notice").append(line);
  setTimeout(() => line.remove(), 6000);
}
