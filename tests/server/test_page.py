"""The files of the operator's page: who gets them, and what a browser may do with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from memedit.server.keys import Keys
from memedit.server.page import PAGE, Page
from tests.server.front import Front
from tests.server.upstream import Upstream

STATIC = Path(__file__).parents[2] / "memedit" / "server" / "static"
SOURCES = {file.name: file.read_text(encoding="utf-8") for file in STATIC.iterdir()}
SCRIPTS = {name: text for name, text in SOURCES.items() if name.endswith(".js")}


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with Upstream() as upstream, Front(upstream.url, tmp_path) as front:
        Keys(front.path).add("ops", "admin")
        yield front


def test_everybody_gets_the_files_and_they_hold_no_data(front: Front) -> None:
    front.encoder.texts.clear()
    for path in (f"{PAGE}/{name}" for name in SOURCES if name != "page.html"):
        assert httpx.get(front.url + path).text == SOURCES[path.rpartition("/")[2]]
    page = httpx.get(front.url + PAGE)
    assert page.text == SOURCES["page.html"]
    assert front.encoder.texts == []
    onward = httpx.get(f"{front.url}{PAGE}/")
    assert onward.status_code == 308
    assert str(onward.next_request and onward.next_request.url) == front.url + PAGE
    # What is not of the page is the upstream's, as is every other method.
    assert httpx.get(f"{front.url}{PAGE}/none").content == b"ok"
    assert httpx.post(front.url + PAGE).content == b"ok"
    assert httpx.head(front.url + PAGE).headers["content-type"] == page.headers["content-type"]


def test_a_browser_may_load_nothing_else_and_run_no_markup(front: Front) -> None:
    for path in Page().paths:
        headers = httpx.get(front.url + path).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["form-action"] == policy["base-uri"] == policy["trusted-types"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_files_are_asked_for_anew_and_sent_once(front: Front) -> None:
    first = httpx.get(front.url + PAGE)
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(
        front.url + PAGE, headers={"if-none-match": f'"x", W/{first.headers["etag"]}'}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    assert httpx.get(front.url + PAGE, headers={"if-none-match": '"x"'}).status_code == 200


def test_the_files_need_nothing_from_elsewhere_and_make_no_markup() -> None:
    page = SOURCES["page.html"]
    assert not re.search(r"<style|<script(?! type=\"module\" src=)|\sstyle=|\son\w+=", page)
    for name, text in SOURCES.items():
        urls = set(re.findall(r"\bhttps?://[^\s\"')]+", text))
        assert urls <= {"http://www.w3.org/2000/svg"}, (name, urls)
    for name, text in SCRIPTS.items():
        sinks = r"(inner|outer)HTML|insertAdjacent|document\.write|\beval\(|new Function|\.style\b"
        assert not re.search(sinks, text), name
    linked = set(re.findall(r"(?:src|href)=\"memedit/([^\"]+)\"", page))
    imported = {name for text in SCRIPTS.values() for name in re.findall(r'from "\./(.+?)"', text)}
    assert linked | imported | {"page.html"} == set(SOURCES)


def test_every_id_that_a_script_names_is_in_the_page() -> None:
    there = set(re.findall(r'\bid="([\w-]+)"', SOURCES["page.html"]))
    there |= {name for text in SCRIPTS.values() for name in re.findall(r'\bid: "([\w-]+)"', text)}
    for name, text in SCRIPTS.items():
        assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= there, name


def test_every_field_has_a_label() -> None:
    page = SOURCES["page.html"]
    labelled = set(re.findall(r'<label[^>]* for="([\w-]+)"', page))
    fields = re.findall(r"<(?:input|textarea|select)\b[^>]*>", page)
    assert len(fields) > 20
    for field in fields:
        found = re.search(r'\bid="([\w-]+)"', field)
        inside = re.search(rf"<label[^>]*>{re.escape(field)}", page)
        assert inside or (found and found.group(1) in labelled), field


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme: str) -> None:
    """At least 4.5 to 1, as WCAG asks of text, and 3 to 1 around fields."""
    css = SOURCES["page.css"]
    blocks = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", b))
        for b in re.findall(r":root {(.*?)}", css, re.S)
    ]
    assert len(blocks) == 2
    colours = blocks[0] if scheme == "light" else blocks[0] | blocks[1]

    def contrast(one: str, other: str) -> float:
        dark, light = sorted(luminance(colours[name]) for name in (one, other))
        return (light + 0.05) / (dark + 0.05)

    for text in ("ink", "dim", "accent", "good", "bad", "plan", "gone"):
        for behind in ("ground", "panel", *(("wash",) if text in ("ink", "dim", "accent") else ())):
            assert contrast(text, behind) >= 4.5, (text, behind, contrast(text, behind))
    assert contrast("on-accent", "accent") >= 4.5
    assert contrast("ink", "mark") >= 4.5
    assert contrast("edge", "panel") >= 3
    # Buttons that undo are red, with the same writing.
    assert contrast("on-accent", "bad") >= 4.5


def luminance(colour: str) -> float:
    """Of a colour in sRGB (WCAG 2.2, relative luminance)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
