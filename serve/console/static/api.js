// The one way to the API. The key lives as long as the tab does, and goes out in a header only.

const KEY = "mainspring-key";
const RETRY_MS = 500;
const RETRY_MOST_MS = 15000;
const SILENCE_MS = 45000; // the gateway says something every 15 s

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `the gateway answered ${status}`);
    this.status = status;
    this.code = body?.error?.code ?? "";
  }
}

export function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return { ...(key ? { authorization: `Bearer ${key}` } : {}), ...more };
}

let asking = null;

// One dialog however many requests were refused; whether a key was given.
export function login(why) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("login");
    const input = dialog.querySelector("input");
    document.getElementById("login-why").textContent = why;
    input.value = "";
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "ok" && input.value.trim();
      if (given) sessionStorage.setItem(KEY, input.value.trim());
      input.value = "";
      asking = null;
      resolve(Boolean(given));
    }, { once: true });
    dialog.returnValue = "cancel";
    dialog.showModal();
  });
  return asking;
}

export async function send(path, { method = "GET", body, signal, more } = {}) {
  const type = body === undefined ? {} : { "content-type": "application/json" };
  const options = { method, signal, headers: headers({ ...type, ...more }) };
  if (body !== undefined) options.body = JSON.stringify(body);
  const answer = await fetch(path, options);
  if (answer.ok) return answer;
  const error = new Refused(answer.status, await answer.json().catch(() => null));
  if (answer.status === 401 && (await login(`The gateway says: ${error.message}`))) {
    return send(path, { method, body, signal, more });
  }
  throw error;
}

export const get = async (path, signal) => (await send(path, { signal })).json();
export const post = async (path, body, signal) => (await send(path, { method: "POST", body, signal })).json();

// The events of a stream, as {id, event, data}; `heard` is told of every piece that comes.
export async function* events(answer, heard = () => {}) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const found = { id: "", event: "message", data: "" };
      for (const line of part.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) found[line.slice(0, colon)] = line.slice(colon + 1).trim();
      }
      if (found.data) yield found;
    }
  }
}

// Whether asking again can not help: what a 4xx says stays so, but for a key that came too often.
const final = (error) => error instanceof Refused && error.status < 500 && error.status !== 408 && error.status !== 429;

// Follows a stream over lost connections, from the event that came last. `told.on` gets each event,
// `told.lost` why and for how many ms it waits, `told.live` that the stream is there (again).
export async function follow(path, signal, told, over) {
  let last = "0";
  let failed = 0;
  while (!signal.aborted && !over()) {
    const silent = new AbortController(); // a connection can be gone without a word
    let timer = null;
    const heard = () => { clearTimeout(timer); timer = setTimeout(() => silent.abort(), SILENCE_MS); };
    let why = "";
    try {
      heard();
      const answer = await send(path, { signal: AbortSignal.any([signal, silent.signal]), more: { "last-event-id": last } });
      failed = 0;
      told.live();
      for await (const event of events(answer, heard)) {
        last = event.id || last;
        told.on(event);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (final(error)) throw error;
      why = silent.signal.aborted ? "nothing came for too long" : error.message;
    } finally {
      clearTimeout(timer);
    }
    if (over()) return;
    const wait = Math.min(RETRY_MOST_MS, RETRY_MS * 2 ** failed) * (0.75 + 0.5 * Math.random());
    failed = why ? failed + 1 : 0;
    if (why) told.lost(why, wait);
    await pause(wait, signal);
  }
}

// Some time, or less when the page is left.
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => { clearTimeout(timer); signal.removeEventListener("abort", done); resolve(); };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}

// Prometheus' text as [{name, labels, value}].
export async function metrics(signal) {
  const text = await (await send("/metrics", { signal })).text();
  const found = [];
  for (const line of text.split("\n")) {
    const match = /^([a-z_:0-9]+)(?:\{(.*)\})? (\S+)/i.exec(line);
    if (!match || line.startsWith("#")) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((m) => [m[1], m[2]]));
    found.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return found;
}
