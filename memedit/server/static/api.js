// The server: the edits API, inference and metrics. The keys are kept in this tab alone, and go out
// in headers.

const STORE = "memedit";

/** Who is signed in: `key`, `server` (the server's own key), `namespace`, and `may`, the key's say. */
export const session = { key: "", server: "", namespace: "", may: null };

export function restoreSession() {
  try {
    Object.assign(session, JSON.parse(sessionStorage.getItem(STORE)) ?? {});
  } catch {
    sessionStorage.removeItem(STORE);
  }
}

export function keepSession() {
  const { key, server, namespace } = session;
  sessionStorage.setItem(STORE, JSON.stringify({ key, server, namespace }));
}

export function forgetSession() {
  sessionStorage.removeItem(STORE);
  Object.assign(session, { key: "", server: "", namespace: "", may: null });
}

export const mayWrite = () => ["write", "admin"].includes(session.may?.role);

/** A refusal: what was wrong, in the server's words. */
export class Refused extends Error {
  constructor(status, body, text) {
    const said = body?.error?.message ?? body?.message ?? body?.detail ?? body?.error;
    super(typeof said === "string" ? said : text.slice(0, 300) || `the server answered ${status}`);
    this.status = status;
    this.code = body?.error?.code ?? "";
  }
}

function headers(more = {}) {
  const found = { ...more };
  if (session.key) found["x-memedit-key"] = session.key;
  if (session.server) found.authorization = `Bearer ${session.server}`;
  if (Object.values(found).some((value) => /[^\x20-\x7e]/.test(value))) {
    throw new Error("a key or the namespace has characters that no header carries");
  }
  return found;
}

/** A request of the page's own; a path that begins with no slash stays below the page's prefix. */
async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached");
  }
  if (response.ok) return response;
  const text = await response.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // An error that is no JSON is shown as it is.
  }
  throw new Refused(response.status, body, text);
}

async function edits(path, { method = "GET", query = {}, body, match, once, signal } = {}) {
  const more = {};
  if (session.namespace) more["x-memedit-namespace"] = session.namespace;
  if (body !== undefined) more["content-type"] = "application/json";
  if (match) more["if-match"] = match;
  if (once) more["idempotency-key"] = once;
  const asked = new URLSearchParams(query).toString();
  const response = await send(`v1/edits${path}${asked ? `?${asked}` : ""}`, {
    method,
    headers: headers(more),
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
  });
  return response.json();
}

const one = (id) => `/${encodeURIComponent(id)}`;

export const api = {
  key: () => edits("/key"),
  list: (query, signal) => edits("", { query, signal }),
  search: (query, signal) =>
    edits("/search", { method: "POST", body: { query, limit: 30, min_score: 0.1 }, signal }),
  get: (id) => edits(one(id)),
  historyOf: (id) => edits(`${one(id)}/history`),
  conflictsOf: (id) => edits(`${one(id)}/conflicts`),
  history: (cursor) => edits("/history", { query: { order: "desc", limit: 50, ...(cursor && { cursor }) } }),
  preview: (body) => edits("", { method: "POST", query: { dry_run: true }, body }),
  add: (body, once) => edits("", { method: "POST", body, once }),
  change: (id, action, reason, match) =>
    edits(`${one(id)}/${action}`, { method: "POST", body: { reason }, match }),
  explain: (prompt, signal) =>
    edits("/explain", { method: "POST", body: { messages: [{ role: "user", content: prompt }] }, signal }),
};

/** The names of the models that are served. */
export async function models() {
  const response = await send("v1/models", { headers: headers() });
  return ((await response.json()).data ?? []).map((model) => model.id);
}

/** The metrics, as `[{name, labels, value}]`. */
export async function metrics() {
  const response = await send("memedit/metrics", { headers: headers() });
  const found = [];
  for (const line of (await response.text()).split("\n")) {
    const parts = /^(memedit_\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (parts === null) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, char) => (char === "n" ? "\n" : char));
    }
    found.push({ name: parts[1], labels, value: Number(parts[3]) });
  }
  return found;
}

/** A chat's answer, piece by piece: `told(text)` gets each; returns the response's headers. */
export async function answer({ prompt, model, tokens, route, signal }, told) {
  const response = await send("v1/chat/completions", {
    method: "POST",
    headers: headers({ "content-type": "application/json" }),
    body: JSON.stringify({
      ...(model && { model }),
      messages: [{ role: "user", content: prompt }],
      temperature: 0,
      max_tokens: tokens,
      stream: true,
      memedit: { namespace: session.may.namespace, route },
    }),
    signal,
  });
  if ((response.headers.get("content-type") ?? "").includes("event-stream")) {
    await events(response, (event) => told(event.choices?.[0]?.delta?.content ?? ""));
  } else {
    told((await response.json()).choices?.[0]?.message?.content ?? "");
  }
  return response.headers;
}

async function events(response, told) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split(/\r?\n/);
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data === "" || data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(response.status, event, data);
      told(event);
    }
    if (done) return;
  }
}
