"""The page of a run: whole, self-contained, the same for the same input, and safe to open."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from memedit.edits import Edit, structured, with_id
from memedit.evaluation.cases import Case, Probe
from memedit.evaluation.interference import ASKS_LIVE_EDIT
from memedit.evaluation.methods import Answered
from memedit.evaluation.page import EXAMPLES, MEANINGS, render, visible
from memedit.evaluation.report import summarise
from memedit.evaluation.verdicts import ERRORS, NOT_EDITED, verdict
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Generation

VOID = {"meta", "br", "hr", "img", "link", "input"}
FIGURES = ("figure-pools", "figure-tradeoff", "figure-errors", "figure-retained")
TIMINGS = {
    "memory": {
        "edits_learned": 4,
        "seconds_per_edit": 0.0125,
        "prompts_asked": 9,
        "engine_seconds": 3.5,
        "latency_median_seconds": 0.75,
        "added_latency_seconds": 0.0625,
    }
}


def case_of(number: int, *, portable: bool = True) -> Case:
    subject = f"Country {number}"
    edit = with_id(
        structured(subject, "The capital of {} is", "Lyon", old_target="Paris"), f"ed-{number}"
    )
    probes = [
        Probe("accuracy", "prompt", f"The capital of {subject} is", ("Lyon",), ("Paris",)),
        Probe("generality", "rephrase", f"{subject} is governed from", ("Lyon",), ("Paris",)),
        Probe("locality", "neighbourhood", "The capital of Italy is", ("Rome",), ("Lyon",)),
    ]
    if portable:
        probes.append(Probe("portability", "2 hops", f"Its river, {subject}", ("Rhône",)))
    return Case(f"case-{number}", (edit,), tuple(probes))


def answered(text: str, edits: tuple[str, ...], scope: float | None, asked: str) -> Answered:
    messages = (
        {"role": "user", "content": f"New fact for: {asked}"},
        {"role": "assistant", "content": "understood"},
        {"role": "user", "content": asked},
    )
    route = "ike" if edits else "passthrough"
    return Answered(ChatPrompt(messages), Generation(text, 40, 3), edits, route, scope)


RIGHT = {"accuracy": "Lyon", "generality": "Lyon", "locality": "Rome", "portability": "Rhône"}


def row_of(
    case: Case,
    pool: int | str = "all",
    *,
    method: str = "memory",
    said: dict[str, tuple[str, tuple[str, ...], float | None]] | None = None,
    apart: str | None = None,
    live: int = 4,
) -> dict[str, Any]:
    """One line of cases.jsonl; what is not in ``said`` is answered rightly."""
    own = case.edits[0].id
    edits: dict[str, Edit] = {own: case.edits[0]}
    other = case_of(99).edits[0]
    edits[other.id] = other
    probes = []
    for probe in case.probes:
        used = () if probe.measure == "locality" else (own,)
        usual = (RIGHT[probe.measure], used, 0.9 if used else 0.1)
        text, by, scope = (said or {}).get(probe.measure, usual)
        one = answered(text, by, scope, probe.prompt)
        aside = apart if probe.measure == "locality" else None
        probes.append(verdict(case, probe, one, unedited="Rome", edits=edits, apart=aside))
    return {
        "method": method,
        "pool": pool,
        "live_edits": live,
        "case": case.id,
        "facts": [edit.statement for edit in case.edits],
        "ids": [edit.id for edit in case.edits],
        "probes": probes,
    }


FAILURES: dict[str, dict[str, tuple[str, tuple[str, ...], float | None]]] = {
    "scope missed": {"accuracy": ("Paris", (), 0.2)},
    "wrong edit": {"accuracy": ("Paris", ("ed-99",), 0.8)},
    "model ignored the fact": {"accuracy": ("Marseille", ("ed-1",), 0.9)},
    "new and old fact asserted": {"accuracy": ("It is Lyon, and it is Paris", ("ed-1",), 0.9)},
    "fired out of scope": {"locality": ("Lyon", ("ed-1",), 0.7)},
    "changed without an edit": {"locality": ("Milan", (), 0.1)},
}


def what(**dataset: Any) -> dict[str, Any]:
    return {
        "memedit": "0.1.0",
        "dataset": {
            "name": "counterfact",
            "split": "dev",
            "records": 12,
            "cases": 10,
            "skipped": {"no question": 2},
            "left_out": {},
            "sha256": "00ff",
            **dataset,
        },
        "settings": {
            "methods": ["none", "ike-always", "memory"],
            "pools": [1, "all"],
            "seed": 7,
            "surface": "chat",
            "max_tokens": 24,
        },
        "cases": 4,
        "engine": {"engine": "vllm", "model": "a-model", "versions": {"vllm": "9.9"}},
        "methods": {"none": {}, "ike-always": {"demonstrations": 16}, "memory": {"scope": {}}},
    }


def sequence() -> list[dict[str, Any]]:
    return [
        {"method": "memory", "step": 1, "holds": {"case-1": True}},
        {"method": "memory", "step": 4, "holds": {f"case-{n}": n != 2 for n in range(1, 5)}},
    ]


def full_rows() -> list[dict[str, Any]]:
    rows = []
    for method in ("none", "memory"):
        for pool, live in ((1, 1), ("all", 4)):
            failing = FAILURES["scope missed"]
            rows += [
                row_of(case_of(n), pool, method=method, live=live, said=failing if n == 1 else None)
                for n in range(1, 5)
            ]
    return rows


def page_of(rows: list[dict[str, Any]], steps: list[dict[str, Any]] | None = None) -> str:
    return render(summarise(rows, steps or [], what()), rows, TIMINGS)


class Page(HTMLParser):
    """The elements of a page; fails where they are not nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def full() -> str:
    return page_of(full_rows(), sequence())


def test_it_loads_nothing(full: str) -> None:
    page = Page(full)
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "use"}
    for _, attrs in page.found:
        assert not attrs.keys() & {"src", "srcset", "style"}
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("href") or "#").startswith("#")
    assert not re.search(r"@import|url\(|https?://", full)
    policy = next(m for m in page.all("meta") if "http-equiv" in m)
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_its_links_lead_somewhere_and_no_id_is_there_twice(full: str) -> None:
    page = Page(full)
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {f"#{one}" for one in ids} >= {attrs["href"] for attrs in page.all("a")}


def test_every_figure_is_there_and_says_its_numbers(full: str) -> None:
    page = Page(full)
    figures = [attrs["id"] for attrs in page.all("figure")]
    assert sorted(figures) == sorted(FIGURES)
    labels = [attrs for attrs in page.all("svg") if attrs.get("role") == "img"]
    ids = {attrs.get("id") for _, attrs in page.found}
    assert len(labels) == len(FIGURES)
    for attrs in labels:
        assert set((attrs["aria-labelledby"] or "").split()) <= ids
    # 3 of 4 cases hold with all edits live; the bootstrap's ends are whatever they are.
    assert re.search(r"memory, 4 live edits: 75\.0 % \[\d+\.\d, \d+\.\d\] n = 4\.", page.text)
    assert "memory, pool all: scope missed, 1." in page.text


def test_tables_have_captions_and_scoped_heads(full: str) -> None:
    page = Page(full)
    assert len(page.all("table")) == len(page.all("caption")) >= 10
    assert {attrs.get("scope") for attrs in page.all("th")} == {"col", "row"}


def test_it_says_what_was_run(full: str) -> None:
    text = " ".join(Page(full).text.split())
    for said in (
        "counterfact",
        "a-model",
        "vllm 9.9",
        "no question",
        "k of ike-always",
        "0.012500",
    ):
        assert said in text
    assert "different things" in text or "Nothing was rated" in text


def test_the_same_input_gives_the_same_bytes(full: str) -> None:
    assert page_of(full_rows(), sequence()) == full


def test_every_kind_of_error_has_a_meaning() -> None:
    assert tuple(MEANINGS) == ERRORS
    assert set(FAILURES) == set(ERRORS) - {NOT_EDITED}


@pytest.mark.parametrize("kind", FAILURES)
def test_an_error_is_shown_whole(kind: str) -> None:
    row = row_of(case_of(1), said=FAILURES[kind])
    (entry,) = [one for one in row["probes"] if one["error"]]
    assert entry["error"] == kind
    text = Page(page_of([row])).text
    sheet = text[text.index("Examples of what went wrong") :]
    assert "memory: 1 of 1" in sheet
    wanted = [
        *row["facts"],
        *(message["content"] for message in entry["sent"]),
        *entry["accepted"],
        *entry["old"],
        entry["answer"],
        entry["unedited"],
        f"{entry['scope']:.4f}",
        *(entry["edits"] or ["none"]),
        MEANINGS[kind],
    ]
    assert [part for part in wanted if part not in sheet] == []
    # Turn by turn, in the order in which they were sent.
    assert [m.strip() for m in re.findall(r"\b(user|assistant)(?=New|und|The)", sheet)] == [
        "user",
        "assistant",
        "user",
    ]


def test_a_text_prompt_is_shown_as_one() -> None:
    case = case_of(1)
    probe = case.probes[0]
    one = Answered(TextPrompt("Fact. The capital is"), Generation("Oslo\nmore", 9, 2), ("ed-1",))
    row = row_of(case)
    row["probes"] = [
        verdict(case, probe, one, unedited="", edits={"ed-1": case.edits[0]}, apart=None)
    ]
    text = Page(page_of([row])).text
    assert "text to be continuedFact. The capital is" in text
    assert "output, whole" in text
    assert "Oslo\nmore" in text
    assert "the method has no scope step" in text


def test_the_first_examples_are_shown_each_probe_once_from_the_largest_pool() -> None:
    failing = FAILURES["scope missed"]
    rows = [row_of(case_of(n), 1, said=failing, live=1) for n in range(8)]
    rows += [row_of(case_of(n), "all", said=failing, live=8) for n in range(8)]
    page = Page(page_of(rows))
    assert f"memory: {EXAMPLES} of 8" in page.text
    shown = re.findall(r"case (case-\d), pool (\w+), accuracy", page.text)
    assert shown == [(f"case-{n}", "all") for n in range(EXAMPLES)]


def test_what_is_set_apart_is_no_example_and_has_a_table() -> None:
    row = row_of(case_of(1), said=FAILURES["fired out of scope"], apart=ASKS_LIVE_EDIT)
    text = Page(page_of([row])).text
    assert "There is nothing to show" in text
    assert ASKS_LIVE_EDIT in text


HOSTILE = (
    "</div></details><script>alert(1)</script>\"' onload=x <img src=http://a.b/c> {{ 7*7 }} &lt;"
)


def test_data_never_becomes_markup() -> None:
    row = row_of(case_of(1), said={"accuracy": (HOSTILE, ("ed-1",), 0.9)})
    entry = row["probes"][0]
    entry.update(prompt=HOSTILE, unedited=HOSTILE, accepted=[HOSTILE], old=[HOSTILE], kind=HOSTILE)
    entry["sent"] = [{"role": HOSTILE, "content": HOSTILE}]
    row.update(facts=[HOSTILE], case=HOSTILE, method=HOSTILE)
    report = summarise([row], [], what(name=HOSTILE, skipped={HOSTILE: 1}))
    page = Page(render(report, [row], {HOSTILE: TIMINGS["memory"]}))
    assert not page.all("script")
    assert not page.all("img")
    assert page.text.count(HOSTILE) > 10
    for _, attrs in page.found:
        assert not attrs.keys() & {"onload", "src"}


def test_characters_that_cannot_be_seen_are_shown() -> None:
    said = "a\u202eb\x00c\u2066d\x1b[31me\ud800f\u2028g\ufeffh\r\ni\tj"
    shown = "a[U+202E]b[U+0000]c[U+2066]d[U+001B][31me[U+D800]f[U+2028]g[U+FEFF]h\ni\tj"
    assert visible(said) == shown
    page = page_of([row_of(case_of(1), said={"accuracy": (said, ("ed-1",), 0.9)})])
    assert shown in Page(page).text
    assert page.encode("utf-8")
    assert not set(page) & set("\u202e\u2066\x00\x1b\u2028\ufeff")


@pytest.mark.parametrize("text", ["می\u200cخواهم", "👩\u200d🚀", "東京 é ß \u00a0", "العربية"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_one_pool_has_no_figure_of_pools() -> None:
    page = Page(page_of([row_of(case_of(1))]))
    assert "figure-pools" not in [attrs["id"] for attrs in page.all("figure")]
    assert "One pool size was run" in page.text
    assert "Scalability needs more than one pool" in page.text


def test_empty_sections_say_so() -> None:
    row = row_of(case_of(1, portable=False))
    text = Page(render(summarise([row], [], what(skipped={})), [row], {})).text
    for said in (
        "No record of the dataset was skipped.",
        "No probe failed.",
        "No probe was set apart.",
        "Nothing was rated by teacher forcing",
        "The sequence of edits was not looked at",
        "Nothing was timed.",
        "There is nothing to show",
    ):
        assert said in text


def test_a_run_without_a_case_is_a_page_all_the_same() -> None:
    assert "No case was evaluated." in Page(render(summarise([], [], what()), [], {})).text


def test_teacher_forcing_stands_beside_generation() -> None:
    row = row_of(case_of(1), said=FAILURES["model ignored the fact"])
    row["probes"][0]["forced"] = {"token_accuracy": 0.625, "exact": False, "prefers": True}
    text = " ".join(Page(page_of([row])).text.split())
    assert "These are two different things, on the very same probes." in text
    assert "0.625" in text
