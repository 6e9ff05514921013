import { get, metrics, send } from "./api.js";
import { card, h, table, usd } from "./dom.js";
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

export async function overview(place, signal) {
  const cards = h("div", { class: "cards" });
  const more = h("div", {});
  place.append(cards, more);
  await every(3000, signal, place, async () => {
    const [[ready, tone], found, usage, waiting] = await Promise.all([
      readiness(signal), metrics(signal), get(`/v1/usage?by=model&since=${today()}`, signal), get("/v1/approvals?limit=100", signal),
    ]);
    const spent = usage.data.reduce((total, row) => total + row.cost_usd, 0);
    const open = ["open", "waiting", "paused"].reduce((n, status) => n + sum(found, "mainspring_runs", { status }), 0);
    cards.replaceChildren(
      card(ready, "the models", tone),
      card(open, "runs that are not over"),
      card(waiting.data.length, "approvals wait", waiting.data.length ? "warn" : ""),
      card(sum(found, "mainspring_effects_parked"), "effects only a person can settle", sum(found, "mainspring_effects_parked") ? "warn" : ""),
      card(sum(found, "mainspring_turns_waiting"), "turns wait for a slot"),
      card(usd(spent), "spent today (UTC)"),
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
