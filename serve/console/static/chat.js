import { events, get, post, send } from "./api.js";
import { choice, field, h, notice, said } from "./dom.js";

const AUTO = ["auto", "auto-fast", "auto-plan"];

export async function chat(place, signal) {
  const [known, agents] = await Promise.all([
    get("/v1/models", signal), get("/v1/agents?limit=100", signal).catch(() => ({ data: [] })),
  ]);
  const talks = known.data.map((m) => m.id).filter((id) => id !== "minilm" && !AUTO.includes(id));
  const whom = choice([...AUTO, ...talks, ...agents.data.map((a) => `agent ${a.id}`)], "auto");
  const text = h("textarea", { rows: 3, required: true, maxlength: 20000 });
  const log = h("div", { class: "said", role: "log", "aria-label": "Conversation" });
  const button = h("button", {}, "Send");
  const form = h("form", {}, h("div", { class: "row" }, field("With", whom), field("Message", text, true), button));
  place.append(log, form);
  let told = [];
  whom.addEventListener("change", () => { told = []; log.replaceChildren(); });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); form.requestSubmit(); }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = text.value.trim();
    if (!words) return;
    text.value = "";
    log.append(bubble("me", said(words)));
    const body = said("");
    const note = h("p", { class: "soft" });
    log.append(bubble("model", body, note));
    button.disabled = true;
    try {
      if (whom.value.startsWith("agent ")) await asked(whom.value.slice(6), words, body, note, signal);
      else told = await answered(whom.value, [...told, { role: "user", content: words }], body, note, signal);
    } catch (error) {
      if (!signal.aborted) notice(error.message);
      if (!body.textContent) body.textContent = error.message;
    }
    button.disabled = false;
    text.focus();
  });
}

const bubble = (whose, ...parts) => h("article", { class: whose }, h("div", { class: "body" }, parts[0]), parts.slice(1));

async function answered(model, messages, body, note, signal) {
  const asked = { model, messages, stream: true, stream_options: { include_usage: true } };
  const answer = await send("/v1/chat/completions", { method: "POST", body: asked, signal });
  const head = (name) => answer.headers.get(`x-mainspring-${name}`) ?? "";
  let usage = null;
  const draw = () => {
    const tokens = usage ? `, ${usage.prompt_tokens} tokens read, ${usage.completion_tokens} written` : "";
    note.textContent = `${head("model")}: ${head("route")}; at most $${head("cost-max-usd")}${tokens}`;
  };
  draw();
  for await (const event of events(answer)) {
    if (event.data === "[DONE]") break;
    const part = JSON.parse(event.data);
    if (part.error) throw new Error(part.error.message);
    usage = part.usage ?? usage;
    body.append(part.choices?.[0]?.delta?.content ?? "");
  }
  draw();
  note.append(" ", ...opinions(head("request-id") || answer.headers.get("x-request-id")));
  return [...messages, { role: "assistant", content: body.textContent }];
}

// What a person says of an answer teaches the router.
function opinions(request) {
  if (!request) return [];
  const button = (verdict, label) => h("button", { type: "button", class: "link", onclick: async (event) => {
    try {
      await post("/v1/feedback", { request_id: request, verdict });
      for (const one of event.target.parentNode.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one === event.target));
      notice("Noted.");
    } catch (error) {
      notice(error.message);
    }
  } }, label);
  return [button("accepted", "right"), " ", button("rejected", "wrong")];
}

async function asked(agent, content, body, note, signal) {
  const path = `/v1/agents/${agent.split("/").map(encodeURIComponent).join("/")}/messages`;
  const answer = await send(path, { method: "POST", body: { content, stream: true }, signal });
  for await (const event of events(answer)) {
    if (event.event !== "answer") { note.textContent = event.event.replaceAll("_", " "); continue; }
    const said = JSON.parse(event.data);
    body.textContent = said.content ?? said.run.reason ?? "no answer yet";
    note.replaceChildren(h("a", { href: `#/runs/${encodeURIComponent(said.run.id)}` }, "its run"), ` ${said.run.status}`);
  }
}
