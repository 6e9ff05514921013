import { get, metrics } from "./api.js";
import { h, said, seconds, table, usd } from "./dom.js";
import { every } from "./poll.js";

export async function models(place, signal) {
  const list = h("div", {});
  place.append(list);
  await every(5000, signal, place, async () => {
    const [known, found, usage, opinions] = await Promise.all([
      get("/v1/models", signal), metrics(signal), get("/v1/usage?by=model,reason&limit=50", signal),
      get("/v1/feedback?limit=20", signal).catch(() => ({ data: [] })),
    ]);
    const mean = (name, model) => {
      const of = (suffix) => found.filter((m) => m.name === `${name}_${suffix}` && m.labels.model === model).reduce((n, m) => n + m.value, 0);
      return of("count") ? seconds(of("sum") / of("count")) : "";
    };
    list.replaceChildren(
      table("Models", ["model", "#first token", "#between tokens", "#in the gateway"], known.data.map((m) => [
        m.id, mean("mainspring_engine_time_to_first_byte_seconds", m.id), mean("mainspring_inter_token_seconds", m.id), mean("mainspring_gateway_seconds", m.id),
      ])),
      h("h2", {}, "How requests were routed"),
      table("By model and reason", ["model", "reason", "#requests", "#cost"], usage.data.map((row) => [row.model, said(row.reason), row.requests, usd(row.cost_usd)])),
      h("h2", {}, "What people said"),
      table("The newest opinions", ["request", "model", "verdict", "#score"], opinions.data.map((o) => [o.request_id, o.model, o.opinion?.verdict ?? o.verdict ?? "", o.opinion?.score ?? o.score ?? ""])),
    );
  });
}
