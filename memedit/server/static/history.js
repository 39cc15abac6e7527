// What happened in the namespace, the newest first.

import { api } from "./api.js";
import { $, fill, h, meta, moment, problem, said } from "./dom.js";
import { kind, why } from "./edits.js";

/** Shows what happened last, or what happened before that. */
export async function show(cursor = null) {
  try {
    const found = await api.history(cursor);
    if (!cursor) fill($("events"));
    $("events").append(...found.data.map(event));
    $("happened").textContent = $("events").childElementCount ? "" : "Nothing has happened here yet.";
    $("earlier").hidden = !found.has_more;
    $("earlier").onclick = () => show(found.next_cursor);
  } catch (error) {
    fill($("events"));
    $("earlier").hidden = true;
    $("happened").textContent = problem(error);
  }
}

const event = (one) =>
  h(
    "li",
    {},
    h("div", { class: "when" }, kind(one), moment(one.at)),
    h(
      "div",
      {},
      said(one.statement, "a", { href: `#/edits/${encodeURIComponent(one.edit_id)}` }),
      meta(said(one.edit_id, "code"), one.author ? said(one.author) : null),
      why(one),
    ),
  );
