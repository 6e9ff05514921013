import { follow, get, pause, post } from "./api.js";
import { choice, field, h, notice, pairs, said, seconds, shown, table, usd, when } from "./dom.js";
import { pages, times } from "./pages.js";

const STATUSES = ["", "open", "waiting", "parked", "paused", "ended"];
const SHOWN = 500; // entries of a timeline
const HEADS = ["run", "workflow", "agent", "status", "decision", "began", "#lasted"];

export async function runs(place, signal) {
  const asked = {
    status: field("Status", choice(STATUSES, "")), decision: field("Decision", h("input", { maxlength: 128, size: 12 })),
    workflow: field("Workflow", h("input", { maxlength: 128, size: 12 })), agent: field("Agent", h("input", { maxlength: 128 })),
    ...times(),
  };
  await pages(place, signal, "/v1/runs", asked, (data) => table("Runs, the newest first", HEADS, data.map((run) => [
    h("a", { href: `#/runs/${encodeURIComponent(run.id)}` }, run.id), run.workflow, said(run.agent), run.status,
    said(run.decision), when(run.created_at),
    run.ended_at ? seconds(run.ended_at - run.created_at) : "",
  ])));
}

export async function run(place, signal, id) {
  const path = `/v1/runs/${encodeURIComponent(id)}`;
  const facts = h("div", {});
  const acts = h("div", { class: "row" });
  const line = h("div", {});
  const link = h("p", { class: "warn", role: "status" });
  const back = h("input", { type: "range", min: 1, max: 1, value: 1 });
  const played = h("div", { class: "row" }, field("Play back, entry by entry", back, true));
  place.append(h("p", {}, h("a", { href: "#/runs" }, "All runs")), link, facts, acts, played, line);
  let over = false;
  let playing = false; // who plays back is left where they are
  let asking = 0;
  back.addEventListener("input", () => {
    playing = back.value !== back.max;
    draw().catch((error) => { if (!signal.aborted) notice(error.message); });
  });

  const act = (verb, label, tone) => h("button", { type: "button", class: tone, onclick: async () => {
    try {
      const made = await post(`${path}/${verb}`, { by: "console" });
      if (made.id !== id) location.hash = `#/runs/${encodeURIComponent(made.id)}`;
      else await draw();
    } catch (error) {
      notice(error.message);
    }
  } }, label);

  async function fork() {
    const after = prompt("Go on as a new run from behind event number (a run's first event is 1):", "1");
    if (!after) return;
    try {
      const made = await post(`${path}/fork`, { after: Number(after) });
      location.hash = `#/runs/${encodeURIComponent(made.id)}`;
    } catch (error) {
      notice(error.message);
    }
  }
  function lines(told, result) {
    const earlier = told.end - told.data.length;
    line.replaceChildren(
      ...(earlier ? [h("p", { class: "soft" }, `${earlier} entries before these are left out here; `, h("code", {}, `mainspring runs show ${id}`), " has all.")] : []),
      table("Timeline", ["#at", "what", "name", "state", "#took", "#cost", "note"], told.data.map((e) => [
        `${e.at.toFixed(2)} s`, e.kind, said(e.name), said(e.state), e.seconds ? seconds(e.seconds) : "", e.usd ? usd(e.usd) : "", said(e.note),
      ])),
      ...(result && told.end === told.total ? [h("h2", {}, "Result"), shown(result)] : []),
    );
  }
  async function draw() {
    const mine = ++asking;
    const upto = playing ? `&upto=${back.value}` : "";
    const [state, told] = await Promise.all([get(path, signal), get(`${path}/timeline?limit=${SHOWN}${upto}`, signal)]);
    if (mine !== asking) return; // of two that are asked for, the later one is shown
    over = state.status === "ended";
    facts.replaceChildren(pairs({
      Run: state.id, Workflow: state.workflow, Agent: state.agent, Status: state.status, Decision: state.decision, Reason: state.reason,
      Began: when(state.created_at), Lasted: state.ended_at ? seconds(state.ended_at - state.created_at) : null, Cost: usd(told.usd),
    }));
    acts.replaceChildren(...(over
      ? (state.decision === "failed" || state.decision === "cancelled" || state.decision === "escalated" ? [act("retry", "Retry")] : []).concat(h("button", { type: "button", class: "quiet", onclick: fork }, "Fork"))
      : [state.status === "paused" ? act("resume", "Resume") : act("pause", "Pause", "quiet"), act("cancel", "Cancel", "danger")]));
    back.max = Math.max(1, told.total);
    if (!playing) back.value = back.max;
    lines(told, state.result);
  }
  // Events tell that something moved; many at once are one look, and a look that failed is repeated.
  let wanted = false;
  let looking = null;
  const moved = () => { wanted = true; looking ??= look(); };
  async function look() {
    for (let soon = 150; wanted && !signal.aborted; soon = wanted ? 2000 : 150) {
      await pause(soon, signal);
      wanted = false;
      await draw().catch(() => { wanted = true; });
    }
    looking = null;
  }
  let lost = false;
  await draw();
  await follow(`${path}/events`, signal, {
    on: moved,
    lost: (why, ms) => {
      lost = true;
      link.textContent = `The connection is lost (${why}). Reconnecting in ${seconds(ms / 1000)}.`;
    },
    live: () => {
      link.textContent = "";
      if (lost) moved();
      lost = false;
    },
  }, () => over);
}
