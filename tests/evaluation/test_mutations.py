"""Does the suite notice when a measure is wrong? Every measure is broken on purpose, and must fail.

A mutant is the module with one thing changed: operands swapped, a comparison turned, a case
dropped from a loop, a number moved by one, a condition negated. The hand-made checks must fail for
every mutant; one that survives is either a hole in the checks or the same function in other words,
and the few of the second kind are listed with their reason.
"""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from memedit.evaluation import intervals, measures, report
from tests.evaluation import by_hand

Check = Callable[[ModuleType], None]

SAME = {
    "_ratios: one more in '0'": "one resample of 2,000 fewer",
    "_ends: one more in '100'": "100 * 0.05 / 2: a percentile of 2.525 instead of 2.5",
}

_COMPARE = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.Gt: ast.GtE,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every way in which one node can be wrong, with a word for it."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div):
        swapped = copy.copy(node)
        swapped.left, swapped.right = node.right, node.left
        yield "operands swapped", swapped
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        yield "not divided", node.left
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
        turned = copy.copy(node)
        turned.ops = [_COMPARE[type(node.ops[0])](), *node.ops[1:]]
        yield "comparison turned", turned
    if isinstance(node, ast.comprehension):
        fewer = copy.copy(node)
        fewer.iter = ast.parse("__drop__(x)", mode="eval").body
        fewer.iter.args = [node.iter]  # type: ignore[attr-defined]
        yield "first dropped", fewer
        if node.ifs:
            every = copy.copy(node)
            every.ifs = []
            yield "condition dropped", every
    if isinstance(node, ast.BoolOp):
        for place in range(len(node.values)):
            less = [value for at, value in enumerate(node.values) if at != place]
            yield (
                f"condition {place} dropped",
                less[0] if len(less) == 1 else ast.BoolOp(node.op, less),
            )
    if isinstance(node, ast.IfExp):
        swapped_if = copy.copy(node)
        swapped_if.body, swapped_if.orelse = node.orelse, node.body
        yield "branches swapped", swapped_if
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "one more", ast.Constant(node.value + 1)


def _drop(values: object) -> list[object]:
    return list(values)[1:]  # type: ignore[call-overload]


def mutants(module: ModuleType) -> Iterator[tuple[str, ast.Module]]:
    """The module's tree with one thing changed inside a function, and what was changed."""
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    tree = ast.parse(source)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for parent in ast.walk(function):
            for name, value in ast.iter_fields(parent):
                if name in ("annotation", "returns", "decorator_list", "slice", "defaults"):
                    continue
                if isinstance(parent, ast.Call) and ast.unparse(parent.func) == "round":
                    continue  # how many digits are kept
                children = value if isinstance(value, list) else [value]
                for place, child in enumerate(children):
                    if not isinstance(child, ast.AST):
                        continue
                    for word, changed in _changes(child):
                        what = f"{function.name}: {word} in {ast.unparse(child)[:60]!r}"
                        yield what, _with(tree, parent, name, place, value, changed)


def _with(
    tree: ast.Module, parent: ast.AST, name: str, place: int, value: object, changed: ast.AST
) -> ast.Module:
    """A copy of the tree in which one child is another."""
    if isinstance(value, list):
        setattr(parent, name, [*value[:place], changed, *value[place + 1 :]])
    else:
        setattr(parent, name, changed)
    mutated = ast.fix_missing_locations(copy.deepcopy(tree))
    setattr(parent, name, value)
    return mutated


def survives(original: ModuleType, tree: ast.Module, checks: Sequence[Check]) -> bool:
    """Whether a mutant passes every check."""
    mutant = ModuleType(original.__name__)
    mutant.__dict__["__drop__"] = _drop
    sys_modules = sys.modules[original.__name__]
    sys.modules[original.__name__] = mutant  # dataclasses look their module up
    try:
        exec(compile(tree, "mutant", "exec"), mutant.__dict__)
        for check in checks:
            check(mutant)
    except Exception:
        return False
    finally:
        sys.modules[original.__name__] = sys_modules
    return True


@pytest.mark.parametrize(
    ("module", "checks"),
    [
        (measures, by_hand.MEASURES),
        (intervals, by_hand.INTERVALS),
        (report, by_hand.REPORT),
    ],
    ids=["measures", "intervals", "report"],
)
@pytest.mark.filterwarnings("ignore:invalid value")  # a mutant may divide by nothing
def test_no_broken_measure_passes(module: ModuleType, checks: Sequence[Check]) -> None:
    unchanged = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    assert survives(module, unchanged, checks), "the unbroken module must pass"
    tried, survivors = 0, []
    for what, tree in mutants(module):
        tried += 1
        if survives(module, tree, checks) and what not in SAME:
            survivors.append(what)
    assert tried > 20
    assert not survivors, "\n".join(survivors)
