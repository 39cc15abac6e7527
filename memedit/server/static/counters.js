// What the server has done since it started, asked for again every few seconds while the tab is seen.

import { metrics, session } from "./api.js";
import { $, fill, h, plural, problem } from "./dom.js";

const EVERY = 3000;
const KEPT = 60;

/** How often each edit took part, by id. */
export const fires = new Map();

const rates = [];
let last = null;
let timer = 0;

/** Begins, or begins anew; nothing is asked while the tab is hidden. */
export function watch() {
  clearTimeout(timer);
  if (session.may !== null && document.visibilityState === "visible") look();
}

export function unwatch() {
  clearTimeout(timer);
  last = null;
  rates.length = 0;
  fires.clear();
  fill($("counters"));
}

document.addEventListener("visibilitychange", watch);

async function look() {
  clearTimeout(timer);
  let again = true;
  try {
    show(summary(await metrics()));
  } catch (error) {
    again = ![401, 403, 404].includes(error.status);
    fill($("counters"), h("p", { class: "quiet" }, excuse(error)));
  }
  if (again && session.may !== null && document.visibilityState === "visible") {
    clearTimeout(timer);
    timer = setTimeout(look, EVERY);
  }
}

function excuse(error) {
  if (error.status === 403) return "Counters are for keys of every namespace.";
  if (error.status === 404) return "No counters: memedit's middleware is not in this server.";
  return `No counters: ${problem(error)}`;
}

function summary(found) {
  const sum = (name, test = () => true) =>
    found.filter((one) => one.name === name && test(one.labels)).reduce((n, one) => n + one.value, 0);
  fires.clear();
  for (const { name, labels, value } of found) {
    if (name === "memedit_edit_fires_total") fires.set(labels.edit, value);
  }
  const timed = sum("memedit_stage_seconds_count", ({ stage }) => stage === "decide");
  return {
    prompts: sum("memedit_decisions_total"),
    edited: sum("memedit_decisions_total", ({ route }) => route !== "passthrough"),
    live: sum("memedit_live_edits"),
    flying: sum("memedit_requests_in_flight"),
    milliseconds: timed
      ? (1000 * sum("memedit_stage_seconds_sum", ({ stage }) => stage === "decide")) / timed
      : null,
    failed: sum("memedit_decision_failures_total") + sum("memedit_upstream_failures_total"),
    refused: sum("memedit_refused_total"),
  };
}

function show(now) {
  if (last !== null) rates.push(Math.max(0, now.prompts - last.prompts));
  if (rates.length > KEPT) rates.shift();
  last = now;
  const share = now.prompts ? ` ${((100 * now.edited) / now.prompts).toFixed(1)} %` : "";
  const cell = (term, value, more = null, kind = null) =>
    h("div", { class: kind }, h("dt", {}, term), h("dd", {}, value, more));
  const number = (value) => Math.round(value).toLocaleString("en");
  fill(
    $("counters"),
    h(
      "dl",
      {},
      cell("Prompts", number(now.prompts), spark()),
      cell("Edited", number(now.edited), h("small", {}, share)),
      cell("Live edits", number(now.live)),
      cell("In flight", number(now.flying), null, "calm"),
      cell("Decision", now.milliseconds === null ? "–" : now.milliseconds.toFixed(1), now.milliseconds === null ? null : h("small", {}, " ms")),
      cell("Failures", number(now.failed), null, now.failed ? "bad" : "calm"),
      cell("Refused", number(now.refused), null, "calm"),
    ),
  );
}

/** Prompts between two looks, as a line. */
function spark() {
  if (rates.length < 2) return null;
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${KEPT} 16`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${plural(rates.at(-1), "prompt")} in the last ${EVERY / 1000} seconds`);
  const most = Math.max(1, ...rates);
  const line = document.createElementNS(namespace, "polyline");
  const points = rates.map((rate, at) => `${KEPT - rates.length + at},${15 - (14 * rate) / most}`);
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}
