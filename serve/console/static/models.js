import { get, metrics, post } from "./api.js";
import { curve } from "./curve.js";
import { h, notice, said, seconds, table, usd } from "./dom.js";
import { every } from "./poll.js";

export async function models(place, signal) {
  const list = h("div", {});
  const learnt = h("div", {});
  place.append(list, learnt);
  await predicted(learnt, signal).catch((error) => { if (!signal.aborted) learnt.replaceChildren(h("p", { class: "soft" }, error.message)); });
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

const percent = (share) => `${(100 * share).toFixed(1)} %`;

// What predicts which model answers right: what a quality costs by it, and its versions.
async function predicted(place, signal) {
  const found = await get("/v1/router", signal);
  const use = async (version) => {
    try {
      await post("/v1/router/use", { version }, signal);
      notice(`Version ${version} is in use.`);
      await predicted(place, signal);
    } catch (error) {
      notice(error.message);
    }
  };
  const [prompt, answer] = found.request_tokens;
  const points = found.curve.map((p) => ({ x: 1000 * p.price, y: p.quality, low: p.low, high: p.high }));
  const drawn = points.length > 1
    ? curve(points, {
      label: `Share of right answers from ${percent(points[0].y)} at ${usd(points[0].x)} to ${percent(points.at(-1).y)} at ${usd(points.at(-1).x)} a thousand requests`,
      x: "USD a thousand requests", y: `Right answers on examples that it had not seen, with the 95 % interval; requests of ${prompt} tokens, answers of ${answer}`,
      showX: usd, showY: percent,
    })
    : h("p", { class: "soft" }, found.versions.length ? "The models of this stack are not those that were compared, or cost the same." : ["Nothing is trained yet: ", h("code", {}, "mainspring router train"), " and ", h("code", {}, "promote"), "."]);
  place.replaceChildren(h("h2", {}, "Quality against cost"), drawn, table("Versions", ["version", "#examples", "models, right", "use"], found.versions.map((v) => [
    v.version, v.examples, Object.entries(v.models).map(([name, m]) => `${name} ${percent(m.right)}`).join(", "),
    v.in_use ? "in use" : h("button", { type: "button", class: "quiet", onclick: () => use(v.version) }, `Use version ${v.version}`),
  ])));
}
