// The one way to the API. The key lives as long as the tab does, and goes out in a header only.

const KEY = "mainspring-key";
const RETRY_MS = 1000;

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

// The events of a stream, as {id, event, data}.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
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

// Follows a stream over lost connections, from the event that came last.
export async function follow(path, signal, on, over) {
  let last = "0";
  while (!signal.aborted && !over()) {
    try {
      const answer = await send(path, { signal, more: { "last-event-id": last } });
      for await (const event of events(answer)) {
        last = event.id || last;
        on(event);
      }
    } catch (error) {
      if (signal.aborted || error instanceof Refused) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
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
