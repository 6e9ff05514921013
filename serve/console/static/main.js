// Which page is shown; a page gets its place and a signal that ends when it is left.

import { get, login, Refused } from "./api.js";
import { h, notice } from "./dom.js";
import { approvals } from "./approvals.js";
import { audit } from "./audit.js";
import { chat } from "./chat.js";
import { memory } from "./memory.js";
import { models } from "./models.js";
import { overview } from "./overview.js";
import { run, runs } from "./runs.js";
import { settings } from "./settings.js";
import { ticket, tickets } from "./tickets.js";

const PAGES = { overview, chat, tickets, runs, approvals, memory, models, audit, settings };
const ONE = { runs: run, tickets: ticket };
const NAMES = { overview: "Overview", chat: "Conversations", tickets: "Tickets", runs: "Runs", approvals: "Approvals", memory: "Memory", models: "Models", audit: "Audit", settings: "Settings" };
const BADGE_MS = 5000;

const main = document.getElementById("main");
let left = new AbortController();

async function show() {
  left.abort();
  left = new AbortController();
  const signal = left.signal;
  const [name, id] = location.hash.slice(2).split("/").map(decodeURIComponent);
  const page = (id && ONE[name]) || (PAGES[name] ?? overview);
  const title = NAMES[name] ?? NAMES.overview;
  document.title = `${title} - Mainspring`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === (PAGES[name] ? name : "overview")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const place = h("div", {});
  main.replaceChildren(h("h1", {}, title), place);
  try {
    await page(place, signal, id);
  } catch (error) {
    if (!signal.aborted) place.append(h("p", { class: "bad", role: "alert" }, error.message));
  }
}

async function badge() {
  try {
    const waiting = (await get("/v1/approvals?limit=100")).data.length;
    const place = document.querySelector('nav a[data-page="approvals"]');
    place.replaceChildren(NAMES.approvals, ...(waiting ? [h("span", { class: "badge", "aria-label": `${waiting} waiting` }, waiting)] : []));
  } catch (error) {
    if (error instanceof Refused && error.status === 403) return; // this key has no say in them
  }
  setTimeout(badge, BADGE_MS);
}

document.getElementById("pages").append(...Object.keys(PAGES).map((name) => {
  const link = h("a", { href: `#/${name}` }, NAMES[name]);
  link.dataset.page = name;
  return link;
}));
document.getElementById("key").addEventListener("click", async () => {
  if (await login("The key that the console asks with. It is forgotten with this tab.")) show();
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => { show(); main.focus(); });
window.addEventListener("offline", () => notice("The connection is gone; the page goes on when it is back."));
show();
badge();
