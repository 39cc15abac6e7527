"""The edit: one fact that a served model should answer with from now on.

An edit is a value. It comes in three ways, and each keeps what it needs to be retrieved
(:attr:`Edit.key`), shown to a model (:attr:`Edit.statement`) and, where the text allows it,
moved into weights later (:attr:`Edit.subject`, :attr:`Edit.prompt`, :attr:`Edit.target`):

>>> structured("France", "The capital of {} is", "Lyon").statement
'The capital of France is Lyon.'
>>> question("What is the capital of France?", "Lyon").subject
'France'
>>> sentence("The capital of France is Lyon.").prompt
'The capital of {} is'

Edit text is data. Text that a chat template or a tokenizer could read as the start of a turn is
refused here, at the only door, so that nothing behind it has to think of it again.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from memedit.errors import InvalidEdit

MAX_CHARS = 2_000
"""Longest text of one field, in characters: an edit is a fact, not a document."""

MAX_ALIASES = 64
"""Most other names that one edit may list for its subject."""

ROUTES = ("auto", "ike", "grace")
"""What an edit may ask for: whichever route has it, in context alone, or the engine's codebook."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")

# Control tokens of the chat templates in use: <|im_start|> (ChatML, Qwen, Phi), <|eot_id|>
# (Llama 3), <start_of_turn> and <|turn> (Gemma), [INST] and <<SYS>> (Llama 2, Mistral),
# <｜User｜> (DeepSeek, after NFKC), [|user|] (EXAONE), <s> and its kin. Any unknown token of these
# shapes counts too.
CONTROL_TOKEN = re.compile(
    r"<\|[\w/ .:▁-]{0,64}\|?>"
    r"|<[\w/.▁-]{1,64}\|>"
    r"|</?(?:s|bos|eos|pad|unk|mask|sep|cls|think|start|end|user|assistant|system|model)>"
    r"|</?(?:role|ai|human|bot|tool|developer|用户|reponame|filename)>"
    r"|</?[a-z]+(?:_[a-z0-9]+)+>"
    r"|</?[a-z]+:[a-z_]+>"
    r"|\[\|[\w ]{0,32}\|\]"
    r"|<</?sys>>"
    r"|\[/?(?:inst|system_prompt|available_tools|tool_calls|tool_results|tool_content|args"
    r"|call_id|think|img|img_break|img_end|prefix|middle|suffix)\]",
    re.IGNORECASE,
)

# Role markers: at the start of a line in any case ("\n\nAssistant:", "### Response:"), and
# anywhere in capitals, as templates of the Vicuna kind write them on one line.
_ROLES = "user|assistant|system|human|ai|bot|model|tool|developer|instruction|input|response"
_ROLE_MARKER = re.compile(
    rf"(?:^|[\n\r\v\f\x85\u2028\u2029])\s*(?:#+\s*|\**)?(?i:{_ROLES})\**\s*:"
    rf"|\b(?:{_ROLES.upper()})\s*:"
    rf"|#{{2,}}\s*(?i:{_ROLES})\b"
)


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact, as content only; who added it and whether it is live is the journal's business.

    Build one with :func:`structured`, :func:`question`, :func:`sentence` or
    :func:`from_mapping`; they fill in the fields that follow from the others.

    Attributes:
        id: ASCII, at most 64 characters of ``A-Za-z0-9._:-``.
        statement: the fact as a sentence; what a model is shown.
        subject: the entity the fact is about, or ``None`` where it is not known.
        prompt: a text with one ``{}`` for the subject that the target completes.
        target: the new answer.
        question: the fact as a question, where it came as one.
        relation: a name for the relation (``"capital"``, ``"P36"``), where it is known.
        aliases: other names of the subject.
        old_target: the answer that the edit replaces, where it is known.
        source: where the fact comes from; free text, never shown to a model.
        route: ``"ike"`` to be answered in context alone, ``"grace"`` to be learned into the
            engine's codebook where there is one, and answered in context until then; ``None`` for
            either.
    """

    id: str
    statement: str
    subject: str | None = None
    prompt: str | None = None
    target: str | None = None
    question: str | None = None
    relation: str | None = None
    aliases: tuple[str, ...] = ()
    old_target: str | None = None
    source: str = ""
    route: str | None = None

    @property
    def key(self) -> str:
        """The text that retrieval compares queries with: the prompt without the new answer."""
        if self.prompt is not None and self.subject is not None:
            return self.prompt.replace("{}", self.subject)
        return self.question or self.statement

    @property
    def names(self) -> tuple[str, ...]:
        """The subject and its aliases; empty where the subject is not known."""
        return () if self.subject is None else (self.subject, *self.aliases)

    @property
    def conflict_key(self) -> str:
        """Two edits with the same key state the same fact; the later one supersedes."""
        return " ".join(self.key.casefold().rstrip(" ?.:!").split())

    @property
    def missing_for_weights(self) -> tuple[str, ...]:
        """The fields that a parameter editor needs and this edit lacks; empty when it can serve.

        An edit that lacks some is still served in context.
        """
        return tuple(name for name in ("subject", "prompt", "target") if not getattr(self, name))

    def to_mapping(self) -> dict[str, Any]:
        """Every field that is set, in order, as JSON types; :func:`from_mapping` reads it back."""
        pairs = ((name, getattr(self, name)) for name in FIELDS)
        said = ((name, value) for name, value in pairs if value not in (None, (), ""))
        return {name: list(v) if isinstance(v, tuple) else v for name, v in said}


FIELDS = tuple(field.name for field in fields(Edit))
"""What an edit has, in order."""


def new_id() -> str:
    """A fresh edit id: ``ed-`` and 64 random bits in hexadecimal."""
    return f"ed-{secrets.token_hex(8)}"


def structured(subject: str, prompt: str, target: str, **rest: Any) -> Edit:
    """An edit from its parts: ``structured("France", "The capital of {} is", "Lyon")``.

    Args:
        subject: the entity.
        prompt: text with one ``{}`` where the subject stands; a prompt without one may spell the
            subject out instead, and its first mention becomes the placeholder.
        target: the new answer.
        rest: further fields of :class:`Edit`.

    Raises:
        InvalidEdit: a text is empty, too long, not text, or could open a chat turn; or the
            prompt names no place for the subject.
    """
    subject = clean(subject, "subject")
    prompt = clean(prompt, "prompt")
    if "{}" not in prompt:
        start = prompt.casefold().find(subject.casefold())
        if start < 0 or prompt[start : start + len(subject)].casefold() != subject.casefold():
            raise InvalidEdit(
                f"the prompt {prompt!r} has no {{}} and does not name the subject {subject!r}; "
                "write {} where the subject belongs, as in 'The capital of {} is'"
            )
        prompt = f"{prompt[:start]}{{}}{prompt[start + len(subject) :]}"
    if prompt.count("{}") != 1:
        places = prompt.count("{}")
        raise InvalidEdit(f"the prompt {prompt!r} has {places} places {{}}; it needs one")
    statement = _sentence_of(prompt.replace("{}", subject), clean(target, "target"))
    rest.setdefault("statement", statement)
    return _checked(subject=subject, prompt=prompt, target=target, **rest)


def question(question: str, answer: str, **rest: Any) -> Edit:
    """An edit from a question and its new answer.

    ``What is the capital of France?`` also gives a subject and a prompt; a question of a shape
    that the rules do not know keeps only what it says, and is served in context.

    Raises:
        InvalidEdit: as :func:`structured`.
    """
    asked, answer = clean(question, "question"), clean(answer, "answer")
    if "subject" in rest:
        return structured(rest.pop("subject"), asked, answer, question=asked, **rest)
    found = _parse_question(asked)
    parts: dict[str, Any] = {"statement": _sentence_of(asked, answer)}
    if found is not None:
        subject, prompt = found
        stated = _sentence_of(prompt.replace("{}", subject), answer)
        parts = {"statement": stated, "subject": subject, "prompt": prompt}
    return _checked(**{**parts, "question": asked, "target": answer, **rest})


def sentence(text: str, **rest: Any) -> Edit:
    """An edit from a plain sentence, such as ``The capital of France is Lyon``.

    Where the sentence has one of the shapes "The R of S is T", "S's R is T" or "S relates to T",
    with names for S and T in the last, subject, prompt and target are read from it; of any other
    it keeps the sentence and, where it starts with a name, that name as the subject. A subject
    and a target that are given are found in the sentence, and leave the prompt.

    Raises:
        InvalidEdit: as :func:`structured`.
    """
    text = clean(text, "statement")
    found = _parse_sentence(text)
    given = {name: rest[name] for name in ("subject", "target") if name in rest}
    if any(found.get(name) != value for name, value in given.items()):
        found = _without_target(text, found | given)
    return _checked(**{"statement": text, **found, **rest})


def from_mapping(data: Mapping[str, Any]) -> Edit:
    """An edit from one object of a JSON Lines file, in whichever of the three ways it is written.

    ``{"subject", "prompt", "target"}``, ``{"question", "answer"}`` (or ``target``) or
    ``{"statement"}``, each with any further field of :class:`Edit`.

    Raises:
        InvalidEdit: a key is unknown, fields are missing, or a text is refused.
    """
    if not isinstance(data, Mapping):
        raise InvalidEdit(f"an edit is a JSON object, not {type(data).__name__}")
    known = {*FIELDS, "answer"}
    if unknown := sorted(set(map(str, data)) - known):
        raise InvalidEdit(f"unknown field {unknown[0]!r}; an edit has {', '.join(sorted(known))}")
    given: dict[str, Any] = {str(k): v for k, v in data.items() if v not in (None, "", [], ())}
    if "aliases" in given and isinstance(given["aliases"], str):
        raise InvalidEdit('aliases is a list of names, not one text; write ["..."]')
    if "answer" in given:
        given.setdefault("target", given.pop("answer"))
    if {"subject", "prompt", "target"} <= given.keys():
        return structured(given.pop("subject"), given.pop("prompt"), given.pop("target"), **given)
    if {"question", "target"} <= given.keys():
        return question(given.pop("question"), given.pop("target"), **given)
    if "statement" in given:
        return sentence(given.pop("statement"), **given)
    raise InvalidEdit(
        f"an edit needs subject, prompt and target, or question and answer, or statement; "
        f"this one has {', '.join(sorted(given)) or 'nothing'}"
    )


def clean(text: object, field: str, limit: int = MAX_CHARS) -> str:
    """The text with runs of white space made one space, or a clear refusal.

    Args:
        text: what the caller gave.
        field: its name, for the message.
        limit: longest length in characters.

    Raises:
        InvalidEdit: not text, empty, too long, control characters or lone surrogates, a chat
            template's control token, or a role marker.
    """
    if not isinstance(text, str):
        raise InvalidEdit(f"{field} must be text, not {type(text).__name__}")
    if len(text) > limit:
        raise InvalidEdit(f"{field} has {len(text):,} characters; at most {limit:,} are taken")
    for char in text:
        if "\ud800" <= char <= "\udfff":
            point = f"U+{ord(char):04X}"
            raise InvalidEdit(f"{field} holds a lone surrogate ({point}); send valid Unicode")
        if unicodedata.category(char) == "Cc" and not char.isspace():
            raise InvalidEdit(f"{field} holds the control character U+{ord(char):04X}; remove it")
    squeezed = " ".join(text.split())
    # Both forms count: a line break opens a turn as it came, and a space in its place may complete
    # a token.
    for form in (text, squeezed):
        plain = unicodedata.normalize("NFKC", form)
        seen = "".join(char for char in plain if unicodedata.category(char) != "Cf")
        if token := CONTROL_TOKEN.search(seen):
            raise InvalidEdit(
                f"{field} holds {token.group()!r}, which a chat template may read as a control "
                "token; spell it in another way"
            )
        if marker := _ROLE_MARKER.search(seen):
            raise InvalidEdit(
                f"{field} holds {marker.group().strip()!r}, which may read as the start of a chat "
                "turn; reword it without the colon"
            )
    if not squeezed:
        raise InvalidEdit(f"{field} is empty")
    return squeezed


def _checked(**given: Any) -> Edit:
    """The edit of these fields, each of them cleaned, and the whole of them once more together."""
    edit_id = given.pop("id", None)
    if edit_id in (None, ""):
        edit_id = new_id()
    if not isinstance(edit_id, str) or not _ID.fullmatch(edit_id):
        raise InvalidEdit(f"the id {edit_id!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    route = given.pop("route", None) or "auto"
    if route not in ROUTES:
        raise InvalidEdit(f"the route {route!r} is none of {', '.join(ROUTES)}")
    aliases = given.pop("aliases", ())
    if isinstance(aliases, str) or not isinstance(aliases, Iterable):
        raise InvalidEdit("aliases is a list of names")
    names = tuple(dict.fromkeys(clean(alias, "alias") for alias in aliases))
    if len(names) > MAX_ALIASES:
        raise InvalidEdit(f"{len(names)} aliases; at most {MAX_ALIASES} are taken")
    texts = {name: clean(text, name) for name, text in given.items() if text not in (None, "")}
    edit = Edit(id=edit_id, aliases=names, route=None if route == "auto" else route, **texts)
    if edit.prompt is not None and (edit.prompt.count("{}") != 1 or edit.subject is None):
        raise InvalidEdit("a prompt needs a subject and exactly one {} where it belongs")
    clean(edit.key, "prompt with its subject", limit=2 * MAX_CHARS)
    return edit


def _sentence_of(stem: str, answer: str) -> str:
    """``stem`` and ``answer`` as one sentence; checked whole, since a token may span the seam."""
    joined = f"{stem} {answer}"
    if joined[-1] not in ".!?":
        joined += "."
    return clean(joined, "the fact", limit=3 * MAX_CHARS)


_BE = r"(?:is|was|are|were)"
_VERB = re.compile(rf" {_BE} ")
_IS = rf"(?P<be>{_BE})(?P<now> now)? (?P<target>.+?)[.!]?"
# "Secretary of State" is one title, whose "of" does not divide relation and subject.
_REL = r"(?:(?:[^\s.?!]+ )?[Ss]ecretary of [Ss]tate|[^.?!]+?)"
_OF = re.compile(rf"(?P<rel>(?:[Tt]he|[Aa]n?) {_REL}) (?P<of>of|for|in) (?P<subject>.+?) {_IS}")
# After a possessive comes a relation in small letters or an acronym ("CEO"); another capital
# rather belongs to a title ("Schindler's List"), as does a bare apostrophe ("Rock 'n' Roll").
_POSSESSIVE_REL = r"(?P<s>['’]s|(?<=s)['’]) (?P<rel>(?:[a-z]|[A-Z]{2,}\b)"
_POSSESSIVE = re.compile(rf"(?P<subject>.+?){_POSSESSIVE_REL}[^.?!]*?) {_IS}")
_WORD = r"[A-Z0-9][\w'’.&-]*"
_SMALL = r"(?:of|the|de|la|le|von|van|der|and|du|di|da|del|&)"
_NAME = re.compile(rf"(?P<subject>{_WORD}(?: (?:{_SMALL} )*{_WORD})*)(?= [a-z])")
# A number is a target only behind a preposition: "founded in 1899", but not "fact number 7".
_TARGET = rf"(?:(?<=in |on |at |by |of |to )[0-9]|[A-Z])[\w'’.&-]*(?: (?:{_SMALL} )*{_WORD})*"
_RELATES = re.compile(rf" (?:[a-z][^\sA-Z.?!,;]* )+(?P<target>{_TARGET})[.!]?")
_QUESTION = re.compile(
    rf"(?:[Ww]hat|[Ww]ho|[Ww]here|[Ww]hich \w+) (?P<be>{_BE}) (?P<rel>the {_REL})"
    r" (?P<of>of|for|in) (?P<subject>[^?]+?)\??"
)
_QUESTION_POSSESSIVE = re.compile(
    rf"(?:[Ww]hat|[Ww]ho|[Ww]here) (?P<be>{_BE}) (?P<subject>[^?]+?){_POSSESSIVE_REL}[^?]*?)\??"
)
# "The King of Sweden was born in" is about the king, unlike "The King of Sweden is".
_TITLE = re.compile(r"[Tt]he [A-Z][a-z]\S*(?: \S+)*")
_DONE = re.compile(r"(?:[a-z]+ed|born|written|made|built|known) (?:in|at|by|on|from|to|as|with) .+")
# What follows a question's subject and goes with its verb: "Where is the seat of X located in".
# "The company that produced X is T", "The city where X was born is T".
_WHERE = re.compile(
    r"[Tt]he [a-z][^.?!,]*? (?:(?:that|which|who) [a-z]+ (?P<done>[^.?!,]+)"
    rf"|(?:that|which|where|whom) (?P<doing>[^a-z.?!,][^.?!,]*?) (?:{_BE} )?[a-z]+(?: in| by)?)"
    rf" {_IS}"
)
# "phenomenology was created by T", "Foster + Partners was founded in T".
_PASSIVE = re.compile(rf"(?P<subject>[^,;:?!]+?)(?= {_BE} (?:now )?{_DONE.pattern})")
_TAIL = re.compile(r" (?:currently|today|[a-z]+ed (?:in|at|by|on|from|to))$")
_RELATIVE = frozenset("that which who whom whose where when".split())
_OPENING = _RELATIVE | {"by"}
_PARTICLES = frozenset("de la le von van der du di da del al el bin ibn".split())
# They may belong to a name: "the former Soviet Union", as do those in "-ern".
_ADJECTIVES = frozenset("former late ancient new old greater modern early".split())
_SMALL_WORDS = _RELATIVE | frozenset(
    "the a an it he she they this that these those there in on at by of to for from with as if or "
    "and but not we you i my your his her its our their no some all any every each one two most "
    "many more few both several other another new old everyone everybody nobody someone".split()
)
# Parts of names between words with capitals, where a clause follows ("the city where X was born").
_INSIDE = frozenset("of the and & +".split()) | _PARTICLES


def _divided(rel: str, of: str, rest: str) -> tuple[str, str] | None:
    """The subject in "``rel`` ``of`` ``rest``", and the whole with ``{}`` in its place.

    Small words in front of a name belong to the relation where they end in "of", "for" or "in"
    ("citizenship of X"), say what X is ("the football club X"), or begin a clause ("the city
    where X was born"). ``None`` where the clause's end is not there.
    """
    words = rest.split(" ")
    if words[-1] in _RELATIVE:
        return None
    held = rel.split(" ")
    clause = next((i for i, word in enumerate(held) if word in _OPENING), len(held))
    if any(_is_named(word) for word in held[clause:]):
        # "the position that X plays in baseball", "the role played by X in the game".
        words = [*held[clause:], of, *words]
        before = " ".join(held[:clause])
    else:
        before = f"{rel} {of}"
    start = next((i for i, word in enumerate(words) if _is_named(word)), 0)
    while start and (words[start - 1] in _PARTICLES or words[start - 1][0].isdigit()):
        start -= 1
    lead, end = words[:start], len(words)
    of_government = lead[-1:] == ["the"] and words[-1] == "government"
    if not (of_government or _is_relation(lead)):
        return rest, f"{rel} {of} {{}}"
    if not _OPENING.isdisjoint(lead):
        end = _end_of_name(words, start)
    elif of_government:
        end -= 1
    return " ".join(words[start:end]), " ".join([before, *lead, "{}", *words[end:]])


def _is_named(text: str) -> bool:
    """Whether a text has a capital in it, as a word that begins a name has ("iPod" too)."""
    return any(map(str.isupper, text))


def _is_relation(lead: Sequence[str]) -> bool:
    """Whether the small words between "of" and a name belong to the relation."""
    nouns = lead[1:] if lead and lead[0] in ("the", "a", "an") else ()
    of_kind = nouns and nouns[0] not in _ADJECTIVES and not nouns[0].endswith("ern")
    behind_of = any(word in ("of", "for", "in") for word in lead[-2:])
    return bool(of_kind) or behind_of or not _OPENING.isdisjoint(lead)


def _end_of_name(words: Sequence[str], start: int) -> int:
    """Where the name that begins at ``start`` ends: before small words that do not lead on."""
    end = start
    for i in range(start, len(words)):
        if _is_named(words[i]) or words[i][0].isdigit():
            end = i + 1
        elif words[i] not in _INSIDE:
            break
    return end


def _parse_sentence(text: str) -> dict[str, str]:
    """Subject, prompt and target of a sentence of a known shape; else what can be told of them."""
    if match := _OF.fullmatch(text):
        divided = _divided(match["rel"], match["of"], match["subject"])
        title = _TITLE.fullmatch(match["rel"]) and _DONE.fullmatch(match["target"])
        # Of "the city where X was born is T" the first verb is the clause's.
        clause = divided and not _RELATIVE.isdisjoint(divided[1].split(" "))
        if divided and not title and not (clause and _VERB.search(match["target"])):
            be = match["be"] + (match["now"] or "")
            subject, prompt = divided
            return {"subject": subject, "prompt": f"{prompt} {be}", "target": match["target"]}
    if match := _POSSESSIVE.fullmatch(text):
        be = match["be"] + (match["now"] or "")
        prompt = f"{{}}{match['s']} {match['rel']} {be}"
        return {"subject": match["subject"], "prompt": prompt, "target": match["target"]}
    if match := _WHERE.fullmatch(text):
        subject = match["done"] or match["doing"]
        words = subject.split(" ")
        if _is_named(words[0]) and "of" not in words and _end_of_name(words, 0) == len(words):
            return _without_target(text, {"subject": subject, "target": match["target"]})
    match = _NAME.match(text)
    if (done := _PASSIVE.match(text)) and _is_thing(done["subject"]):
        match = done
    if not match or match["subject"].lower() in _SMALL_WORDS:
        return {}
    found = {"subject": match["subject"].removeprefix("The ")}
    if relates := _RELATES.fullmatch(text, match.end()):
        return _without_target(text, found | {"target": relates["target"].rstrip(".")})
    return found


def _is_thing(text: str) -> bool:
    """Whether what stands before "was founded by" is a name, a name with a word behind it, or a
    thing that has no capital.
    """
    words = text.split(" ")
    end = _end_of_name(words, 0)
    if words[0].lower() in _SMALL_WORDS or not _SMALL_WORDS.isdisjoint(words[end:]):
        return False
    return len(words) <= end + 1 if end else len(words) <= 4


def _without_target(text: str, parts: dict[str, str]) -> dict[str, str]:
    """The parts, with the prompt that remains of a sentence without its target at the end."""
    found = {name: parts[name] for name in ("subject", "target") if parts.get(name)}
    whole = text.rstrip(" .!")
    if len(found) == 2 and whole.endswith(found["target"]) and "{}" not in whole:
        stem = whole.removesuffix(found["target"]).rstrip()
        if found["subject"] in stem:
            return found | {"prompt": stem.replace(found["subject"], "{}", 1)}
    return found


def _parse_question(text: str) -> tuple[str, str] | None:
    """``(subject, prompt)`` of a question that asks for one relation of one subject."""
    if match := _QUESTION.fullmatch(text):
        tail = _TAIL.search(match["subject"]) if _is_named(match["subject"]) else None
        rest = match["subject"] if tail is None else match["subject"][: tail.start()]
        if found := _divided(match["rel"], match["of"], rest):
            stem = f"{found[1][0].upper()}{found[1][1:]} {match['be']}"
            return found[0], stem if tail is None else stem + tail.group()
    if match := _QUESTION_POSSESSIVE.fullmatch(text):
        return match["subject"], f"{{}}{match['s']} {match['rel']} {match['be']}"
    return None


def with_id(edit: Edit, edit_id: str) -> Edit:
    """The same content under another id."""
    return replace(edit, id=edit_id)
