// Elements and texts. What edits, prompts and models say becomes text nodes and nothing else.

/** The element of this id. */
export const $ = (id) => document.getElementById(id);

/** An element. Attributes that are null, undefined or false are left out; "on..." listen. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== false));
  return element;
}

/** Puts these in the place of what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== false));
}

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu;
const SHOWN = "\n\t\u200c\u200d";

/** A text in which control, bidi and other invisible characters can be seen. */
export function visible(text) {
  const code = (char) => char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  return String(text).replace(HIDDEN, (char) => (SHOWN.includes(char) ? char : `[U+${code(char)}]`));
}

/** Somebody else's words, which keep their own direction. */
export const said = (text, tag = "bdi", attributes = {}) =>
  h(tag, { dir: "auto", ...attributes }, visible(text));

const UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];
const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** A moment, as "3 hours ago", with the exact time behind it. */
export function moment(text) {
  const seconds = (Date.parse(text) - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  const words = unit === "second" ? "just now" : RELATIVE.format(Math.trunc(seconds / size), unit);
  return h("time", { datetime: text, title: new Date(text).toLocaleString() }, words);
}

/** Small things said of something, side by side. */
export const meta = (...parts) =>
  h(
    "span",
    { class: "meta" },
    parts
      .flat()
      .filter((part) => part !== null && part !== false)
      .map((part) => (typeof part === "string" ? h("span", {}, part) : part)),
  );

/** A state or an event, as a word with a dot before it. */
export const chip = (word, kind = word) => h("span", { class: `chip ${kind}` }, word);

export const plural = (count, word) =>
  `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

let hiding = 0;

/** Says something once, at the foot of the page and to screen readers. */
export function announce(text) {
  const toast = $("toast");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => toast.classList.remove("shown"), 5000);
}

/** An error as a sentence. */
export const problem = (error) => visible(error?.message ?? error);
