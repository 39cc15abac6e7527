// A prompt: the decision on it, what is sent on, and the answers with and without edits.

import { answer, api, keepSession, models, session } from "./api.js";
import { watch } from "./counters.js";
import { $, fill, h, meta, plural, problem, said } from "./dom.js";

let running = null;
let known = "";

export function setUp() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  $("stop").addEventListener("click", stop);
  $("ask-server-key").addEventListener("change", () => {
    session.server = $("ask-server-key").value.trim();
    keepSession();
    offerModels();
    watch();
  });
}

export function show() {
  $("ask-server-key").value = session.server;
  $("prompt").focus();
  offerModels();
}

export function forget() {
  stop();
  known = "";
  $("ask").reset();
  for (const id of ["decision", "evidence", "sides"]) $(id).hidden = true;
  fill($("models"));
}

/** Opens the playground with a prompt in it. */
export function place(prompt) {
  $("prompt").value = prompt;
  location.hash = "/playground";
}

export function stop() {
  running?.abort();
  return running !== null;
}

async function offerModels() {
  if (known === `${session.key} ${session.server}`) return;
  try {
    const names = await models();
    known = `${session.key} ${session.server}`;
    fill($("models"), names.map((name) => h("option", { value: name })));
    if (!$("model").value) $("model").value = names[0] ?? "";
  } catch {
    // A server that does not list its models may still have some: the name is typed then.
  }
}

async function run() {
  stop();
  const { signal } = (running = new AbortController());
  const mine = running;
  const prompt = $("prompt").value;
  $("ask-problem").textContent = "";
  $("played").textContent = "";
  $("stop").hidden = false;
  $("sides").hidden = false;
  const asked = { prompt, model: $("model").value.trim(), tokens: Number($("tokens").value) || 128, signal };
  try {
    const [decided, without, edited] = await Promise.all([
      decide(prompt, signal),
      one($("without"), { ...asked, route: "passthrough" }),
      one($("with"), { ...asked, route: "auto" }),
    ]);
    if (without !== null && without === edited) {
      $("with").append(h("p", { class: "quiet" }, "The same to the letter."));
    }
    if (decided !== null) {
      $("played").textContent = `${decided.edits.length ? "Edited" : "Not edited"}. Without edits: ${without ?? "no answer"}. With edits: ${edited ?? "no answer"}.`;
    }
  } finally {
    if (running === mine) {
      running = null;
      $("stop").hidden = true;
    }
  }
}

/** Asks for the decision and shows it; null where there is none. */
async function decide(prompt, signal) {
  try {
    const decided = await api.explain(prompt, signal);
    $("decision").hidden = $("evidence").hidden = false;
    fill($("decision"), ...verdict(decided));
    fill($("evidence"), ...sent(decided, prompt));
    return decided;
  } catch (error) {
    $("decision").hidden = $("evidence").hidden = true;
    if (error.name !== "AbortError") $("ask-problem").textContent = problem(error);
    return null;
  }
}

function verdict(decided) {
  const edited = decided.edits.length > 0;
  return [
    h(
      "div",
      { class: "verdict" },
      h("h2", {}, edited ? `Answered with ${plural(decided.edits.length, "edit")}` : "Passes as it is"),
      h("span", { class: `chip ${edited ? "active" : "superseded"}` }, decided.route),
    ),
    h("ul", { class: "plain reasons" }, decided.reasons.map((reason) => said(reason, "li"))),
    decided.considered.length
      ? h(
          "details",
          {},
          h("summary", {}, `${plural(decided.considered.length, "edit")} considered`),
          h("ul", { class: "plain considered" }, decided.considered.map(considered)),
        )
      : null,
  ];
}

function considered(one) {
  const share = Math.round(1000 * one.probability) / 10;
  const meter = h("meter", { min: "0", max: "100", value: String(share), "aria-label": "probability" }, `${share} %`);
  return h(
    "li",
    { class: one.accepted ? "accepted" : null },
    h("span", { class: "mark", "aria-label": one.accepted ? "accepted" : "refused", role: "img" }, one.accepted ? "✓" : "·"),
    h("a", { href: `#/edits/${encodeURIComponent(one.id)}`, class: "statement" }, said(one.statement)),
    meta(
      one.mention === null ? "not named" : h("span", {}, "names ", said(one.mention)),
      one.stated ? h("span", {}, "asks ", said(one.asked), " of ", said(one.stated)) : null,
      one.relation === null ? null : `relation ${one.relation.toFixed(2)}`,
      one.similarity === null ? null : `cosine ${one.similarity.toFixed(2)}`,
      h("span", { class: "share" }, meter, `${share.toFixed(1)} %`),
    ),
  );
}

/** The messages as they go on, with what memedit added to them marked. */
function sent(decided, prompt) {
  if (decided.rewritten === null) {
    return [h("h2", {}, "As it is sent on"), h("p", { class: "quiet" }, "Byte for byte as it came.")];
  }
  const turns = decided.rewritten;
  return [
    h("h2", {}, "As it is sent on"),
    h(
      "ol",
      { class: "turns" },
      turns.map((turn, at) => {
        const content = String(turn.content);
        const own = at === turns.length - 1 && content.endsWith(prompt) ? prompt : "";
        const added = content.slice(0, content.length - own.length);
        return h(
          "li",
          {},
          h("b", {}, turn.role),
          h("p", { dir: "auto" }, added ? said(added, "mark") : null, own ? said(own, "span") : null),
        );
      }),
    ),
    h("p", { class: "quiet" }, h("mark", {}, "Marked"), " is what memedit adds."),
  ];
}

/** One answer, as it comes; the whole text, or null where there was none. */
async function one(place, asked) {
  const begun = performance.now();
  const text = h("p", { class: "answer", dir: "auto" });
  const foot = h("p", {}, meta("waiting…"));
  fill(place, text, foot);
  let whole = "";
  try {
    const headers = await answer(asked, (piece) => {
      whole += piece;
      fill(text, said(whole, "span"));
    });
    if (whole === "") fill(text, h("em", {}, "an empty answer"));
    fill(foot, meta(`${Math.round(performance.now() - begun).toLocaleString("en")} ms`, told(headers)));
    return whole;
  } catch (error) {
    fill(foot, error.name === "AbortError" ? meta("stopped") : h("span", { class: "problem" }, refusal(error)));
    return null;
  }
}

function told(headers) {
  const route = headers.get("x-memedit-route");
  if (route === null) return ["memedit's middleware is not in this server: it edits nothing"];
  const edits = (headers.get("x-memedit-edits") ?? "").split(",").filter(Boolean);
  const reason = headers.get("x-memedit-reason");
  return [
    route,
    ...edits.map((id) => h("a", { href: `#/edits/${encodeURIComponent(id)}` }, said(id, "code"))),
    reason && reason !== "bypassed" ? said(reason) : null,
  ];
}

function refusal(error) {
  const hint = error.status === 401 ? "; give the server's own key above" : "";
  return `${problem(error)}${hint}`;
}
