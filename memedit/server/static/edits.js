// The list of edits, and one edit with what happened to it.

import { api, mayWrite } from "./api.js";
import { fires } from "./counters.js";
import { $, announce, chip, fill, h, meta, moment, plural, problem, said } from "./dom.js";
import { place } from "./playground.js";

const PAGE = 50;
const WAIT = 150;

let asking = null;
let waiting = 0;
let open = "";

export function setUp() {
  $("find").addEventListener("submit", (event) => {
    event.preventDefault();
    list();
  });
  $("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(list, WAIT);
  });
  for (const input of [$("state"), ...document.querySelectorAll("[name=by]")]) {
    input.addEventListener("change", () => list());
  }
}

const byMeaning = () => document.querySelector("[name=by]:checked").value === "meaning";

/** Shows the edits that are searched for, or the next of them. */
export async function list(cursor = null) {
  clearTimeout(waiting);
  asking?.abort();
  const { signal } = (asking = new AbortController());
  const text = $("query").value.trim();
  const meaning = byMeaning() && text !== "";
  $("state").disabled = byMeaning();
  try {
    const query = { limit: PAGE, state: $("state").value };
    const found = meaning
      ? await api.search(text, signal)
      : await api.list({ ...query, ...(text && { text }), ...(cursor && { cursor }) }, signal);
    if (!cursor) fill($("rows"));
    $("rows").append(...found.data.map(row));
    const shown = $("rows").childElementCount;
    $("found").textContent = shown || text ? tally(shown, found.has_more) : "";
    if (!shown) fill($("rows"), h("li", { class: "empty" }, nothing(text)));
    $("more").hidden = !found.has_more;
    $("more").onclick = () => list(found.next_cursor);
    mark();
  } catch (error) {
    if (error.name === "AbortError") return;
    fill($("rows"), h("li", { class: "problem" }, problem(error)));
    $("found").textContent = "";
    $("more").hidden = true;
  }
}

const tally = (shown, more) => `${plural(shown, "edit")}${more ? ", and more" : ""}`;

function nothing(text) {
  if (text) return "No edit matches. Another word, or another state?";
  if ($("state").value !== "active") return "No edit is in this state.";
  return [
    "No edit is active in this namespace. ",
    mayWrite() ? h("a", { href: "#/add" }, "Add the first one") : null,
  ].filter(Boolean);
}

function row(edit) {
  const count = fires.get(edit.id);
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#/edits/${encodeURIComponent(edit.id)}`, "data-id": edit.id },
      said(edit.statement, "span", { class: "statement" }),
      meta(
        edit.state === "active" ? null : chip(edit.state),
        said(edit.id, "code"),
        edit.author ? said(edit.author) : null,
        moment(edit.created_at),
        edit.score === undefined ? null : `cosine ${edit.score.toFixed(2)}`,
        count ? plural(count, "prompt") : null,
      ),
    ),
  );
}

/** Marks the row of the edit that is open. */
function mark() {
  for (const link of $("rows").querySelectorAll("a")) {
    const current = link.dataset.id === open;
    if (current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

/** Moves the focus a row on. */
export function step(by) {
  const links = [...$("rows").querySelectorAll("a")];
  const at = links.findIndex((link) => link === document.activeElement);
  const from = at < 0 ? links.findIndex((link) => link.dataset.id === open) : at;
  const next = from < 0 ? 0 : Math.min(links.length - 1, Math.max(0, from + by));
  links[next]?.focus();
}

/** Shows an edit; an empty id shows none. */
export async function show(id, { focus = true } = {}) {
  const before = open;
  open = id;
  $("edits").classList.toggle("opened", id !== "");
  mark();
  if (id === "") {
    fill($("detail"), h("p", { class: "hint" }, "Choose an edit to see it whole, with its history."));
    if (before && focus) [...$("rows").querySelectorAll("a")].find((a) => a.dataset.id === before)?.focus();
    return;
  }
  try {
    const [edit, history, against] = await Promise.all([
      api.get(id),
      api.historyOf(id),
      api.conflictsOf(id),
    ]);
    if (open !== id) return;
    draw(edit, history.data, against.conflicts);
    if (focus) $("detail").querySelector("h2").focus();
  } catch (error) {
    if (open !== id) return;
    fill($("detail"), back(), h("p", { class: "problem", role: "alert" }, problem(error)));
  }
}

const back = () => h("a", { class: "back", href: "#/edits" }, "← All edits");

const link = (id) => h("a", { href: `#/edits/${encodeURIComponent(id)}` }, said(id, "code"));

function draw(edit, history, against) {
  const pair = (term, ...values) =>
    values.some((value) => value !== null && value !== "")
      ? h("div", {}, h("dt", {}, term), h("dd", {}, ...values))
      : null;
  const words = (text) => (text ? said(text) : null);
  const links = (ids) => ids.flatMap((id, at) => [at ? ", " : "", link(id)]);
  const count = fires.get(edit.id);
  fill(
    $("detail"),
    back(),
    meta(chip(edit.state), said(edit.id, "code")),
    said(edit.statement, "h2", { tabindex: "-1" }),
    actions(edit),
    h(
      "dl",
      { class: "facts" },
      pair("Subject", words(edit.subject)),
      pair("Aliases", words(edit.aliases.join(" | "))),
      pair("Prompt", words(edit.prompt)),
      pair("Question", words(edit.question)),
      pair("Target", words(edit.target)),
      pair("Until now", words(edit.old_target)),
      pair("Relation", words(edit.relation)),
      pair("Source", words(edit.source)),
      pair("Added", moment(edit.created_at), edit.author ? " by " : null, words(edit.author)),
      pair("Reason", words(edit.reason)),
      edit.valid_from ? pair("Answers from", moment(edit.valid_from)) : null,
      edit.expires_at ? pair("Answers until", moment(edit.expires_at)) : null,
      edit.supersedes.length ? pair("In the place of", ...links(edit.supersedes)) : null,
      edit.superseded_by ? pair("Superseded by", link(edit.superseded_by)) : null,
      pair("In the weights", words(edit.version)),
      count ? pair("Took part in", `${plural(count, "prompt")} since the server started`) : null,
    ),
    against.length
      ? h("section", {}, h("h3", {}, "Answered otherwise by"), h("ul", { class: "plain" }, against.map(other)))
      : null,
    h(
      "section",
      {},
      h("h3", {}, "History"),
      h("ol", { class: "timeline" }, history.toReversed().map(happened)),
    ),
  );
}

/** An edit that answers the same fact otherwise, and why the two are one fact. */
export const other = (one) =>
  h("li", {}, said(one.statement), " ", link(one.id), h("p", { class: "why" }, said(one.reason)));

const KINDS = {
  add: ["added", "active"],
  revert: ["reverted", "reverted"],
  restore: ["restored", "active"],
  consolidate: ["consolidated", "consolidated"],
};

/** What happened, as a word with its colour. */
export const kind = (event) => chip(...(KINDS[event.kind] ?? [event.kind, "superseded"]));

/** Why it happened, and in whose place. */
export const why = (event) => [
  event.reason ? said(event.reason, "p", { class: "why" }) : null,
  event.supersedes.length
    ? h("p", { class: "why" }, "in the place of ", ...event.supersedes.flatMap((id, at) => [at ? ", " : "", link(id)]))
    : null,
];

const happened = (event) =>
  h("li", {}, meta(kind(event), event.author ? said(event.author) : null, moment(event.at)), why(event));

function actions(edit) {
  const action = edit.state === "reverted" ? "restore" : "revert";
  const word = action === "restore" ? "Restore" : "Revert";
  const reason = h("input", { id: "why", autocomplete: "off" });
  const error = h("p", { class: "problem", role: "alert" });
  const form = h(
    "form",
    { class: "confirm", hidden: true, method: "post" },
    h("div", { class: "field" }, h("label", { for: "why" }, "Reason ", h("span", { class: "optional" }, "optional")), reason),
    error,
    h(
      "div",
      { class: "actions" },
      h("button", { class: action === "revert" ? "main danger" : "main" }, word),
      h("button", { type: "button", onclick: () => close() }, "Cancel"),
    ),
  );
  const begin = h(
    "button",
    { type: "button", id: "change", disabled: !mayWrite(), "aria-expanded": "false", title: mayWrite() ? null : "This key may only look" },
    `${word}… `,
    h("kbd", {}, "r"),
  );
  const close = () => {
    form.hidden = true;
    begin.setAttribute("aria-expanded", "false");
    begin.focus();
  };
  begin.addEventListener("click", () => {
    form.hidden = false;
    begin.setAttribute("aria-expanded", "true");
    reason.focus();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const made = await api.change(edit.id, action, reason.value, edit.etag);
      const again = made.active_again?.length ? `; ${made.active_again.join(", ")} answers again` : "";
      announce(`${edit.id} is ${made.state}${again}`);
      await Promise.all([show(edit.id), list()]);
    } catch (wrong) {
      error.textContent = problem(wrong);
    }
  });
  const example = edit.question ?? (edit.prompt && edit.subject ? edit.prompt.replace("{}", edit.subject) : edit.statement);
  return h(
    "div",
    {},
    h(
      "div",
      { class: "actions" },
      h("button", { type: "button", id: "try", onclick: () => place(example) }, "Try it ", h("kbd", {}, "t")),
      begin,
    ),
    form,
  );
}
