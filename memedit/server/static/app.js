// The page as a whole: who is signed in, which view is shown, and the keyboard.

import * as add from "./add.js";
import { api, forgetSession, keepSession, restoreSession, session } from "./api.js";
import { unwatch, watch } from "./counters.js";
import { $, announce, fill, h, problem } from "./dom.js";
import * as edits from "./edits.js";
import * as history from "./history.js";
import * as playground from "./playground.js";

const VIEWS = ["edits", "add", "playground", "history"];
const LETTERS = { e: "edits", a: "add", p: "playground", h: "history" };
const SINGLE = "memedit.single";
const REFUSED = [400, 401, 403];

let shown = "";
let seeking = false;

// who is signed in

async function enter({ loud = true } = {}) {
  try {
    session.may = await api.key();
  } catch (error) {
    session.may = null;
    leave(loud || !REFUSED.includes(error.status) ? problem(error) : "", REFUSED.includes(error.status));
    return;
  }
  session.namespace = session.may.namespace;
  keepSession();
  $("key").value = "";
  $("server-key").value = "";
  $("enter-problem").textContent = "";
  $("top").hidden = false;
  $("sign-in").hidden = true;
  $("namespace").value = session.may.namespace;
  $("role").textContent = `${session.may.name}, ${session.may.role}`;
  fill($("namespaces"), session.may.namespaces.map((name) => h("option", { value: name })));
  shown = "";
  watch();
  await go();
}

function leave(text = "", forget = true) {
  if (forget) forgetSession();
  session.may = null;
  unwatch();
  add.forget();
  playground.forget();
  shown = "";
  for (const name of VIEWS) $(name).hidden = true;
  for (const id of ["rows", "detail", "events"]) fill($(id));
  $("find").reset();
  $("found").textContent = "";
  $("top").hidden = true;
  $("sign-in").hidden = false;
  $("enter-problem").textContent = text;
  document.title = "memedit";
  $("key").focus();
}

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  session.key = $("key").value.trim();
  session.server = $("server-key").value.trim();
  session.namespace = $("enter-namespace").value.trim();
  enter();
});

$("leave").addEventListener("click", () => leave());

$("where").addEventListener("submit", (event) => {
  event.preventDefault();
  $("namespace").blur();
});

$("namespace").addEventListener("change", async () => {
  const before = session.namespace;
  session.namespace = $("namespace").value.trim();
  try {
    session.may = await api.key();
    session.namespace = $("namespace").value = session.may.namespace;
    keepSession();
    shown = "";
    if (location.hash.startsWith("#/edits/")) location.hash = "/edits";
    else await go();
    announce(`Namespace ${session.namespace}`);
  } catch (error) {
    session.namespace = $("namespace").value = before;
    announce(problem(error));
  }
});

// which view is shown

async function go() {
  if (session.may === null) return;
  // With a slash, since the browser takes the focus to an element that the address names.
  if (shown !== "" && !location.hash.startsWith("#/")) return;
  const [name, ...rest] = location.hash.slice(2).split("/");
  const view = VIEWS.includes(name) ? name : "edits";
  const fresh = view !== shown;
  shown = view;
  for (const one of VIEWS) $(one).hidden = one !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${$(`${view}-title`).textContent} · memedit`;
  if (view === "edits") {
    const id = decoded(rest.join("/"));
    if (fresh) await edits.list();
    await edits.show(id, { focus: !fresh || id !== "" });
    if (seeking) seek();
    else if (fresh && id === "") $("edits-title").focus();
  } else if (fresh) {
    if (view === "add") add.show();
    else if (view === "playground") playground.show();
    else {
      $("history-title").focus();
      await history.show();
    }
  }
}

/** An id out of an address, which somebody may have mistyped. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

window.addEventListener("hashchange", go);

// the keyboard

const typing = (element) =>
  element.matches("input:not([type=radio], [type=checkbox]), textarea, select");

const single = () => localStorage.getItem(SINGLE) !== "off";

$("single").addEventListener("change", () => localStorage.setItem(SINGLE, $("single").checked ? "on" : "off"));

function help() {
  $("single").checked = single();
  $("help").showModal();
}

$("shortcuts").addEventListener("click", help);

document.addEventListener("keydown", (event) => {
  if (session.may === null || $("help").open) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    const form = { add: $("new"), playground: $("ask") }[shown];
    if (form === undefined) return;
    event.preventDefault();
    if (!form.querySelector("button.main, #check, #run").disabled) form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (playground.stop()) return;
    if (typing(event.target)) event.target.blur();
    else if (shown === "edits") location.hash = "/edits";
    return;
  }
  if (typing(event.target) || !single()) return;
  if (press(event.key)) event.preventDefault();
});

/** Puts the focus where one searches. */
function seek() {
  seeking = false;
  $("query").focus();
  $("query").select();
}

/** What a key of one letter does; whether it does anything. */
function press(key) {
  if (key === "?") return help(), true;
  if (key === "/") {
    seeking = true;
    if (shown === "edits") seek();
    else location.hash = "/edits";
    return true;
  }
  if (key in LETTERS) {
    location.hash = `/${LETTERS[key]}`;
    return true;
  }
  if (shown !== "edits") return false;
  if (key === "j" || key === "k") return edits.step(key === "j" ? 1 : -1), true;
  const button = { r: "change", t: "try" }[key];
  if (button === undefined || $(button) === null) return false;
  $(button).click();
  return true;
}

edits.setUp();
add.setUp();
playground.setUp();
restoreSession();
if (session.key) enter({ loud: false });
else leave();
