import { get, metrics, send } from "./api.js";
import { ago, card, h, table, usd } from "./dom.js";
import { every } from "./poll.js";

const sum = (found, name, labels = {}) => found
  .filter((m) => m.name === name && Object.entries(labels).every(([k, v]) => m.labels[k] === v))
  .reduce((total, m) => total + m.value, 0);

const today = () => new Date().toISOString().slice(0, 10);

async function readiness(signal) {
  try {
    await send("/readyz", { signal });
    return ["ready", "good"];
  } catch (error) {
    return [error.status === 503 ? error.message : "unknown", "bad"];
  }
}

// What somebody should look at, from the same numbers that the alert rules go by.
function alerts(ready, tone, found, waiting, people) {
  const told = [];
  const now = Date.now() / 1000;
  if (tone === "bad") told.push(["bad", `The stack is not ready: ${ready}`, null]);
  const oldest = Math.min(...waiting.map((row) => row.created_at));
  if (waiting.length && now - oldest > 900) told.push(["warn", `An approval was asked for ${ago(oldest)} and still waits.`, "#/approvals"]);
  if (people) told.push(["warn", `Tickets that wait for a person: ${people === 100 ? "100 or more" : people}.`, "#/tickets"]);
  const parked = sum(found, "mainspring_effects_parked_total");
  if (parked) told.push(["bad", `${parked} effects were broken off, and only a person can say what became of them.`, "#/runs"]);
  for (const m of found.filter((one) => one.name === "mainspring_budget_used_share" && one.value >= 0.9)) {
    told.push([m.value >= 1 ? "bad" : "warn", `The budget of ${m.labels.kind ?? ""} ${m.labels.subject ?? ""} is used to ${Math.round(100 * m.value)} %.`, null]);
  }
  for (const m of found.filter((one) => one.name === "mainspring_engine_kv_usage" && one.value >= 0.9)) {
    told.push(["warn", `The KV cache of ${m.labels.model} is ${Math.round(100 * m.value)} % full.`, "#/models"]);
  }
  return told.length
    ? h("ul", { class: "list", "aria-label": "Alerts" }, told.map(([how, text, where]) => h("li", { class: how }, where ? h("a", { href: where }, text) : text)))
    : h("p", { class: "good" }, "Nothing needs a look.");
}

export async function overview(place, signal) {
  const cards = h("div", { class: "cards" });
  const more = h("div", {});
  const alarms = h("div", {});
  place.append(alarms, cards, more);
  await every(3000, signal, place, async () => {
    const [[ready, tone], found, usage, waiting, people] = await Promise.all([
      readiness(signal), metrics(signal), get(`/v1/usage?by=model&since=${today()}`, signal), get("/v1/approvals?limit=100", signal),
      get("/v1/tickets?status=escalated&limit=100", signal).catch(() => ({ data: [] })), // another tenant's key has no desk
    ]);
    alarms.replaceChildren(alerts(ready, tone, found, waiting.data, people.data.length));
    const outcomes = (outcome) => sum(found, "mainspring_run_outcomes_total", outcome ? { outcome } : {});
    const answers = (answer) => sum(found, "mainspring_run_answers_total", answer ? { answer } : {});
    const share = (part, whole) => (whole ? `${Math.round((100 * part) / whole)} %` : "-");
    const spent = usage.data.reduce((total, row) => total + row.cost_usd, 0);
    const open = ["open", "waiting", "paused"].reduce((n, status) => n + sum(found, "mainspring_runs", { status }), 0);
    cards.replaceChildren(
      card(ready, "the models", tone),
      card(open, "runs that are not over"),
      card(waiting.data.length, "approvals wait", waiting.data.length ? "warn" : ""),
      card(sum(found, "mainspring_effects_parked_total"), "effects only a person can settle", sum(found, "mainspring_effects_parked_total") ? "warn" : ""),
      card(sum(found, "mainspring_turns_waiting"), "turns wait for a slot"),
      card(usd(spent), "spent today (UTC)"),
      card(share(outcomes("automated"), outcomes()), "of ended runs went without a person"),
      card(share(answers("denied") + answers("narrowed"), answers()), "of people's answers overrode an agent"),
    );
    const engines = [...new Set(found.filter((m) => m.name === "mainspring_engine_running").map((m) => m.labels.model))];
    const meterOf = (share) => h("meter", { min: 0, max: 1, high: 0.8, value: share, "aria-label": `${Math.round(100 * share)} %` });
    const budgets = found.filter((m) => m.name === "mainspring_budget_used_share");
    more.replaceChildren(
      table("Engines", ["model", "#running", "#waiting", "KV cache"], engines.map((model) => [
        model, sum(found, "mainspring_engine_running", { model }), sum(found, "mainspring_engine_waiting", { model }), meterOf(sum(found, "mainspring_engine_kv_usage", { model })),
      ])),
      table("Today by model", ["model", "#requests", "#tokens in", "#tokens out", "#cost"], usage.data.map((row) => [
        row.model, row.requests, row.tokens_in, row.tokens_out, usd(row.cost_usd),
      ])),
      table("Budgets", ["of", "period", "used"], budgets.map((m) => [`${m.labels.kind ?? ""} ${m.labels.subject ?? ""}`, m.labels.period ?? "", meterOf(m.value)])),
    );
  });
}
