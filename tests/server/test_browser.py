"""The operator's page in headless Chromium, in front of the proxy that ``memedit serve`` runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.edits import sentence, structured
from memedit.server.keys import Keys, Role
from memedit.server.page import PAGE
from tests.server.front import Front
from tests.server.scripted import Scripted
from tests.server.upstream import Upstream

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: use the extra dev"
)
expect = playwright.expect

CHAT = "/v1/chat/completions"
MODEL = "tiny"
FRANCE = "What is the capital of France?"
HOSTILE = (
    "<img src=x onerror=\"window.pwned='img'\"><script>window.pwned='script'</script>"
    "</textarea></bdi><svg onload=\"window.pwned='svg'\">{{7*7}}"
)
OUTPUT = Path(__file__).parents[1] / "output" / "page"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


SPILLING = """() => [...document.querySelectorAll(".sheet, .detail, .result, .side, .rows, .top")]
    .filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.id || box.className)"""
"""Boxes out of which something sticks, as a script."""


def answered(path: str, body: Any) -> Any:
    """A model that knows what its prompt says, and says it in pieces."""
    if path.endswith("/models"):
        return 200, {"data": [{"id": MODEL}]}
    if not path.endswith("/chat/completions"):
        return 404, {"error": {"message": "there is no such path"}}
    asked = body["messages"][-1]["content"]
    if "refuse" in asked:
        return 400, {"error": {"message": "the upstream refuses"}}
    said = HOSTILE if "Kenya" in asked else "Lyon, now." if "Lyon" in asked else "Paris, as ever."
    if not body.get("stream"):
        return 200, {"choices": [{"message": {"content": said}}]}
    pieces = [{"choices": [{"delta": {"content": piece}}]} for piece in re.findall(r"\S+\s*", said)]
    lines = [json.dumps(piece) for piece in pieces] + ["[DONE]"]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def upstream() -> Scripted:
    return Scripted(answered)


@pytest.fixture
def front(upstream: Scripted, tmp_path: Path) -> Iterator[Front]:
    with (
        Upstream(app=upstream) as server,
        Front(server.url, tmp_path, recent_prompts=20, count_evidence=False) as front,
    ):
        memory = front.memory
        memory.add(structured("France", "The capital of {} is", "Nice", id="nice"), author="ann")
        memory.add(
            structured("France", "The capital of {} is", "Lyon", id="lyon"),
            author="ann",
            reason="the ministries moved",
        )
        memory.add(structured("Acme", "The CEO of {} is", "Maria Keller", id="ceo"), author="ci")
        memory.add(sentence("Iron floats.", id="iron"), namespace="physics")
        yield front


class Operator:
    """Somebody at the page, who notes what goes wrong in it.

    Attributes:
        page: Playwright's page.
        asked: method and URL of each request.
        wrong: errors, dialogs, and what the page's content policy has stopped.
    """

    def __init__(self, context: Any, front: Front) -> None:
        self.front = front
        self.page = context.new_page()
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.set_default_timeout(10_000)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._told)
        self.page.on("dialog", lambda dialog: (self.wrong.append("dialog"), dialog.dismiss()))

    def _told(self, message: Any) -> None:
        # A refused request is told on the console whatever the page does about it.
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            self.wrong.append(message.text)

    def key(self, role: Role = "write", *namespaces: str) -> str:
        """A new admin key."""
        return Keys(self.front.path).add("ops", role, namespaces)[1]

    def sign_in(self, secret: str, view: str = "edits") -> None:
        """Signs in, by keyboard."""
        self.page.goto(f"{self.front.url}{PAGE}#/{view}")
        expect(self.page.get_by_label("Admin key")).to_be_focused()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(secret)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#top")).to_be_visible()

    def see(self, place: str, text: str) -> None:
        """Waits until a place has a text in it."""
        expect(self.page.locator(place)).to_contain_text(text)

    def shoot(self, name: str) -> None:
        """A picture, for people to look at."""
        OUTPUT.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=OUTPUT / f"{name}.png", full_page=True)


Comes = Callable[..., Operator]


@pytest.fixture
def comes(browser: Any, front: Front) -> Iterator[Comes]:
    contexts = []
    operators: list[Operator] = []

    def come(**options: Any) -> Operator:
        contexts.append(browser.new_context(**options))
        operators.append(Operator(contexts[-1], front))
        return operators[-1]

    yield come
    for context in contexts:
        context.close()
    assert [wrong for operator in operators for wrong in operator.wrong] == []


def test_a_wrong_key_opens_nothing_and_a_good_one_stays_in_the_tab(
    comes: Comes, upstream: Scripted
) -> None:
    operator = comes()
    page = operator.page
    secret = operator.key()
    page.goto(f"{operator.front.url}{PAGE}")
    page.keyboard.type("mek-00000000-wrong")
    page.keyboard.press("Enter")
    operator.see("#enter-problem", "this needs an admin key")
    assert page.evaluate("sessionStorage.length") == 0
    expect(page.locator("#rows")).to_be_empty()
    operator.sign_in(secret)
    operator.see("#rows", "The capital of France is Lyon.")
    assert secret in page.evaluate("sessionStorage.getItem('memedit')")
    assert page.evaluate("localStorage.length") == 0
    assert page.evaluate("document.cookie") == ""
    assert not [url for url in operator.asked if secret in url]
    assert secret not in page.content()
    page.reload()
    operator.see("#rows", "The capital of France is Lyon.")
    page.get_by_role("button", name="Sign out").click()
    assert page.evaluate("sessionStorage.length") == 0
    expect(page.locator("#rows")).to_be_empty()
    expect(page.locator("#top")).to_be_hidden()
    assert secret not in repr(upstream.headers)


def test_all_that_matters_is_done_with_the_keyboard(comes: Comes, front: Front) -> None:
    body = {"messages": [{"role": "user", "content": FRANCE}]}
    for _ in range(2):
        httpx.post(f"{front.url}{CHAT}", json=body)
    operator = comes()
    keys, page = operator.page.keyboard, operator.page
    operator.sign_in(operator.key())
    operator.see("#found", "3 edits")

    keys.press("a")
    expect(page.get_by_label("Statement")).to_be_focused()
    keys.type("The capital of France is Metz.")
    keys.press("Control+Enter")
    operator.see("#preview", "It would be added.")
    operator.see("#preview", "The capital of France is Lyon.")
    operator.see("#preview", "It would have changed 1 of the last 1 prompt.")
    operator.see("#preview", "2 times")
    assert len(front.memory) == 4
    operator.shoot("dry-run")
    for _ in range(9):
        keys.press("Tab")
        if page.evaluate("document.activeElement.id") == "put":
            break
    keys.press("Enter")
    operator.see("#toast", "it answers from now on")
    operator.see("#detail h2", "The capital of France is Metz.")
    expect(page.locator("#detail h2")).to_be_focused()
    made = page.evaluate("location.hash").removeprefix("#/edits/")
    assert front.memory.get(made).state == "active"
    assert front.memory.get("lyon").state == "superseded"

    keys.press("r")
    expect(page.locator("#why")).to_be_focused()
    keys.type("they moved back")
    keys.press("Enter")
    operator.see("#toast", "lyon answers again")
    operator.see("#detail .timeline", "they moved back")
    assert front.memory.get(made).state == "reverted"
    assert front.memory.history(made)[-1].author == "ops"
    keys.press("r")
    keys.press("Enter")
    operator.see("#detail .chip >> nth=0", "active")
    assert front.memory.get(made).state == "active"

    keys.press("h")
    operator.see("#events li >> nth=0", "restored")
    operator.see("#events", "they moved back")
    keys.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    keys.type("keller")
    operator.see("#found", "1 edit")
    keys.press("Escape")
    keys.press("j")
    keys.press("Enter")
    operator.see("#detail h2", "The CEO of Acme is Maria Keller.")
    keys.press("t")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("The CEO of Acme is")
    keys.press("Escape")
    keys.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_label("Keys of one letter work").press("Space")
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    keys.press("e")
    expect(page.locator("#playground")).to_be_visible()


def test_a_dry_run_is_of_what_is_written_and_each_form_adds(comes: Comes, front: Front) -> None:
    operator = comes()
    page = operator.page
    operator.sign_in(operator.key(), "add")
    page.get_by_role("radio", name="Parts").check()
    page.get_by_label("Subject", exact=True).fill("Spain")
    page.get_by_label("Target").fill("Vigo")
    page.get_by_role("button", name="Dry run").click()
    operator.see("#new-problem", "prompt")
    page.get_by_label("Prompt with {}").fill("The capital of {} is")
    page.get_by_role("button", name="Dry run").click()
    operator.see("#preview", "No other edit answers this fact.")
    operator.see("#preview", "none of the last 0 prompts")
    expect(page.locator("#put")).to_have_class("main")
    page.get_by_label("Target").fill("Jaca")
    expect(page.locator("#preview")).to_have_class(re.compile("stale"))
    expect(page.locator("#put")).not_to_have_class("main")
    page.get_by_role("button", name="Add", exact=True).click()
    operator.see("#detail h2", "Jaca")
    page.get_by_role("link", name="Add", exact=True).click()
    page.get_by_role("radio", name="Question").check()
    page.get_by_label("Question", exact=True).last.fill("Who wrote Hamlet?")
    page.get_by_label("Answer", exact=True).fill("Marlowe")
    page.locator("#new summary").click()
    page.get_by_label("Aliases").fill("The Prince | Hamlet, Prince")
    page.get_by_label("Answers until").fill("2099-01-02T03:04")
    page.get_by_role("button", name="Add", exact=True).click()
    operator.see("#detail", "Who wrote Hamlet?")
    made = front.memory.get(page.evaluate("location.hash").removeprefix("#/edits/"))
    assert made.edit.aliases == ("The Prince", "Hamlet, Prince")
    assert made.expires_at is not None
    assert made.author == "ops"


def test_the_playground_shows_decision_evidence_and_both_answers(
    comes: Comes, upstream: Scripted
) -> None:
    operator = comes()
    page = operator.page
    operator.sign_in(operator.key(), "playground")
    expect(page.get_by_label("Model")).to_have_value(MODEL)
    page.get_by_label("Server key").last.fill("sk-upstream")
    page.get_by_label("Server key").last.blur()
    page.get_by_label("Prompt", exact=True).fill(FRANCE)
    page.keyboard.press("Control+Enter")
    operator.see("#without", "Paris, as ever.")
    operator.see("#with", "Lyon, now.")
    operator.see("#with", "ike")
    operator.see("#with", "lyon")
    operator.see("#decision", "Answered with 1 edit")
    operator.see("#decision .reasons", "names 'France'")
    operator.see("#evidence mark >> nth=0", "The capital of France is Lyon.")
    operator.see("#played", "With edits: Lyon, now.")
    # One more may have been sent ahead of its decision, and left.
    bodies = sorted(upstream.bodies(CHAT), key=lambda body: len(str(body)))
    plain, edited = bodies[0], bodies[-1]
    assert plain["messages"] == [{"role": "user", "content": FRANCE}]
    assert "Lyon" in edited["messages"][-1]["content"]
    shown = page.locator("#evidence .turns li p").last.text_content()
    assert shown == edited["messages"][-1]["content"]
    assert (b"authorization", b"Bearer sk-upstream") in upstream.headers
    operator.shoot("playground")
    # What no edit is about, and what the upstream refuses.
    page.get_by_label("Prompt", exact=True).fill("Good morning.")
    page.keyboard.press("Control+Enter")
    operator.see("#decision", "Passes as it is")
    operator.see("#evidence", "Byte for byte as it came.")
    operator.see("#with", "The same to the letter.")
    page.get_by_label("Prompt", exact=True).fill("please refuse")
    page.keyboard.press("Control+Enter")
    operator.see("#with", "the upstream refuses")
    # What takes too long is stopped.
    upstream.delay = 20.0
    page.get_by_label("Prompt", exact=True).fill("Are you there?")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="Stop").click()
    operator.see("#with", "stopped")


def test_edits_are_found_by_words_by_meaning_and_by_state(comes: Comes, front: Front) -> None:
    many = [structured(f"City{n}", "The code of {} is", f"C{n}", id=f"c{n}") for n in range(60)]
    front.memory.add(many, author="import")
    operator = comes()
    page = operator.page
    operator.sign_in(operator.key("read"))
    operator.see("#found", "50 edits, and more")
    page.get_by_role("button", name="More").click()
    operator.see("#found", "63 edits")
    page.get_by_role("searchbox").fill("LYON")
    operator.see("#found", "1 edit")
    page.get_by_role("searchbox").fill("no such thing")
    operator.see("#rows", "No edit matches.")
    page.get_by_role("searchbox").fill("capital of France")
    page.get_by_role("radio", name="Meaning").check()
    operator.see("#rows li >> nth=0", "The capital of France is Lyon.")
    operator.see("#rows li >> nth=0", "cosine")
    page.get_by_role("radio", name="Words").check()
    page.get_by_label("State", exact=True).select_option("superseded")
    operator.see("#rows", "The capital of France is Nice.")
    operator.see("#rows .chip", "superseded")
    page.locator("#rows a").first.click()
    operator.see("#detail", "Superseded by")
    page.locator("#detail").get_by_role("link", name="lyon").first.click()
    operator.see("#detail h2", "Lyon")
    operator.see("#detail", "the ministries moved")


def test_hostile_text_is_text(comes: Comes, front: Front) -> None:
    front.memory.add(
        structured("Kenya", "The president of {} is", HOSTILE, id="bad", source=HOSTILE),
        author=f"m\u202eallory{HOSTILE}",
        reason=HOSTILE,
    )
    body = {"messages": [{"role": "user", "content": f"Who leads Kenya? {HOSTILE}"}]}
    httpx.post(f"{front.url}{CHAT}", json=body)
    operator = comes()
    page = operator.page
    operator.sign_in(operator.key(), "edits/bad")
    operator.see("#detail h2", HOSTILE)
    operator.see("#detail .timeline", HOSTILE)
    operator.see("#rows", HOSTILE)
    operator.see("#detail", "m[U+202E]allory")
    page.keyboard.press("h")
    operator.see("#events", HOSTILE)
    page.keyboard.press("a")
    page.get_by_label("Statement").fill(f"The president of Kenya is Jo. {HOSTILE}")
    page.keyboard.press("Control+Enter")
    operator.see("#preview .prompts", HOSTILE)
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.get_by_label("Prompt", exact=True).fill(f"Who is the president of Kenya? {HOSTILE}")
    page.keyboard.press("Control+Enter")
    operator.see("#with .answer", HOSTILE)
    operator.see("#evidence", HOSTILE)
    operator.see("#decision .considered", HOSTILE)
    assert page.locator("main img[src=x], main script, main svg").count() == 0
    assert page.evaluate("window.pwned") is None
    # Were a script of the page to make markup of it, the browser would not.
    with page.expect_console_message(), pytest.raises(playwright.Error, match="TrustedHTML"):
        page.evaluate("text => { document.body.innerHTML = text }", HOSTILE)
    operator.wrong.clear()


def test_a_key_that_may_only_look_can_only_look(comes: Comes) -> None:
    operator = comes()
    page = operator.page
    operator.sign_in(operator.key("read", "default"), "edits/lyon")
    operator.see("#role", "ops, read")
    operator.see("#detail h2", "Lyon")
    expect(page.locator("#change")).to_be_disabled()
    page.keyboard.press("r")
    expect(page.locator(".confirm")).to_be_hidden()
    page.keyboard.press("a")
    expect(page.locator("#add-denied")).to_be_visible()
    expect(page.locator("#check")).to_be_disabled()
    expect(page.locator("#put")).to_be_disabled()
    operator.see("#counters", "Counters are for keys of every namespace.")
    assert sum(url.endswith("/memedit/metrics") for url in operator.asked) == 1


def test_a_namespace_is_chosen_among_those_that_the_key_grants(comes: Comes) -> None:
    operator = comes()
    page = operator.page
    operator.sign_in(operator.key("read", "default", "physics"))
    where = page.get_by_label("Namespace").first
    where.fill("physics")
    where.press("Enter")
    operator.see("#rows", "Iron floats.")
    where.fill("others")
    where.press("Enter")
    operator.see("#toast", "in a namespace of the key's")
    expect(where).to_have_value("physics")
    page.reload()
    operator.see("#rows", "Iron floats.")


def test_what_changed_elsewhere_is_not_reverted_unseen(comes: Comes, front: Front) -> None:
    operator = comes()
    operator.sign_in(operator.key(), "edits/lyon")
    operator.see("#detail h2", "Lyon")
    front.memory.add(structured("France", "The capital of {} is", "Metz", id="metz"))
    operator.page.keyboard.press("r")
    operator.page.keyboard.press("Enter")
    operator.see(".confirm .problem", "is superseded now")
    assert front.memory.get("lyon").state == "superseded"


def test_counters_are_asked_for_only_while_the_tab_is_seen(comes: Comes, front: Front) -> None:
    operator = comes()
    page = operator.page
    page.clock.install()
    operator.sign_in(operator.key("read"))
    page.clock.run_for(100)

    def value(name: str) -> Any:
        return page.locator("#counters div", has_text=name).locator("dd")

    def asked() -> int:
        return sum(url.endswith("/memedit/metrics") for url in operator.asked)

    expect(value("Live edits")).to_have_text("4")
    expect(value("Prompts")).to_have_text("0")
    body = {"messages": [{"role": "user", "content": FRANCE}]}
    httpx.post(f"{front.url}{CHAT}", json=body)
    page.clock.run_for(3_100)
    expect(value("Prompts")).to_have_text("1")
    expect(value("Edited")).to_have_text("1 100.0 %")
    seen = """state => {
        Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(seen, "hidden")
    before = asked()
    for _ in range(3):
        page.clock.run_for(10_000)
    assert asked() == before
    httpx.post(f"{front.url}{CHAT}", json=body)
    page.evaluate(seen, "visible")
    expect(value("Prompts")).to_have_text("2")
    assert asked() > before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_in_every_window(comes: Comes, front: Front, scheme: str, width: int) -> None:
    long = "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch" * 3
    front.memory.add(structured(long, "The mayor of {} is", "Jo", id="long"), author="ann")
    size = {"width": width, "height": 820}
    operator = comes(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page = operator.page
    operator.sign_in(operator.key("admin"))
    for view, ready in (
        ("edits", "#rows a"),
        ("edits/long", "#detail h2"),
        ("add", "#new-statement"),
        ("playground", "#prompt"),
        ("history", "#events li"),
    ):
        page.goto(f"{front.url}{PAGE}#/{view}")
        expect(page.locator(ready).first).to_be_visible()
        if view == "playground":
            page.get_by_label("Prompt", exact=True).fill(f"Who is the mayor of {long}?")
            page.keyboard.press("Control+Enter")
            operator.see("#played", "With edits")
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, (view, wider)
        assert page.evaluate(SPILLING) == [], view
        operator.shoot(f"{view.replace('/', '-')}-{scheme}-{width}")
