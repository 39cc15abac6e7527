// A new edit: what adding it would come to, and then the adding.

import { api, mayWrite } from "./api.js";
import { other } from "./edits.js";
import { $, announce, chip, fill, h, meta, plural, problem, said, visible } from "./dom.js";

let checked = "";
let once = "";

export function setUp() {
  for (const input of document.querySelectorAll("[name=form]")) {
    input.addEventListener("change", () => choose(input.value));
  }
  $("new").addEventListener("input", changed);
  $("new").addEventListener("submit", (event) => {
    event.preventDefault();
    check();
  });
  $("put").addEventListener("click", put);
  changed();
}

/** Begins with the focus where writing begins. */
export function show() {
  const denied = !mayWrite();
  $("add-denied").hidden = !denied;
  $("check").disabled = $("put").disabled = denied;
  if (!denied) current().querySelector("input, textarea").focus();
  else $("add-title").focus();
}

export function forget() {
  $("new").reset();
  choose("statement");
  fill($("preview"));
}

const current = () => $("new").querySelector("[data-form]:not([hidden])");

function choose(form) {
  for (const part of $("new").querySelectorAll("[data-form]")) part.hidden = part.dataset.form !== form;
  changed();
}

/** What a dry run said is of another edit now. */
function changed() {
  once = `page-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
  $("preview").classList.toggle("stale", checked !== "" && checked !== JSON.stringify(written()));
  emphasise();
}

/** The next step is the button that stands out. */
function emphasise() {
  const ready = checked !== "" && checked === JSON.stringify(written());
  $("put").classList.toggle("main", ready);
  $("check").classList.toggle("main", !ready);
}

function written() {
  const body = {};
  for (const field of $("new").querySelectorAll("[name]:not([name=form])")) {
    const away = field.closest("[data-form]");
    const value = field.value.trim();
    if (value === "" || (away !== null && away.hidden)) continue;
    if (field.name === "aliases") body.aliases = value.split("|").map((name) => name.trim()).filter(Boolean);
    else if (field.type === "datetime-local") body[field.name] = new Date(value).toISOString();
    else body[field.name] = value;
  }
  return body;
}

async function check() {
  const body = written();
  $("new-problem").textContent = "";
  try {
    const { data, recent } = await api.preview(body);
    checked = JSON.stringify(body);
    $("preview").classList.remove("stale");
    fill($("preview"), outcome(data[0]), tried(recent));
    emphasise();
  } catch (error) {
    fail(error);
  }
}

async function put() {
  $("new-problem").textContent = "";
  $("put").disabled = true;
  try {
    const made = await api.add(written(), once);
    forget();
    checked = "";
    announce(`Added ${made.id}: it answers from now on`);
    location.hash = `/edits/${encodeURIComponent(made.id)}`;
  } catch (error) {
    fail(error);
  } finally {
    $("put").disabled = !mayWrite();
  }
}

function fail(error) {
  checked = "";
  fill($("preview"));
  $("new-problem").textContent = problem(error);
  emphasise();
}

const OUTCOMES = {
  add: ["active", "It would be added."],
  unchanged: ["superseded", "An edit says all this already: nothing would be added."],
  refuse: ["reverted", "It would be refused."],
};

function outcome(one) {
  const [kind, text] = OUTCOMES[one.outcome];
  return [
    meta(chip("dry run", kind)),
    h("h2", {}, text),
    said(one.statement, "p", { class: "statement" }),
    one.problem ? said(one.problem, "p", { class: "problem" }) : null,
    one.conflicts.length
      ? h(
          "section",
          {},
          h("h3", {}, one.supersedes.length ? "In the place of" : "In conflict with"),
          h("ul", { class: "plain" }, one.conflicts.map(other)),
        )
      : h("p", { class: "quiet" }, "No other edit answers this fact."),
    one.warnings.length
      ? h("section", {}, h("h3", {}, "Note"), h("ul", { class: "plain" }, one.warnings.map((text) => said(text, "li"))))
      : null,
  ];
}

function tried(recent) {
  const title = h("h3", {}, "Recent prompts");
  if (recent === null) {
    return h(
      "section",
      {},
      title,
      h("p", { class: "quiet" }, "None are kept. With ", h("code", {}, "recent_prompts = 100"), " in the server's configuration, this says which of them the edit would have changed."),
    );
  }
  const { tried: count, changed } = recent;
  return h(
    "section",
    {},
    title,
    h("p", {}, `${changed.length ? `It would have changed ${changed.length} of` : "It would have changed none of"} the last ${plural(count, "prompt")}.`),
    h(
      "ul",
      { class: "plain prompts" },
      changed.map((one) =>
        h(
          "li",
          {},
          said(one.prompt, "span"),
          meta(
            one.times > 1 ? `${one.times} times` : null,
            one.before.length ? `now with ${visible(one.before.join(", "))}` : "now without edits",
            one.after.length ? null : "then without edits",
          ),
        ),
      ),
    ),
  );
}
