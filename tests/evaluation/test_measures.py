"""Every measure on small cases whose right values are written out by hand."""

from collections.abc import Callable
from types import ModuleType

import pytest

from memedit.evaluation import intervals, measures, report
from tests.evaluation import by_hand

CHECKS = [
    *((measures, check) for check in by_hand.MEASURES),
    *((intervals, check) for check in by_hand.INTERVALS),
    *((report, check) for check in by_hand.REPORT),
]


@pytest.mark.parametrize(("module", "check"), CHECKS, ids=lambda part: part.__name__)
def test_the_values_are_those_worked_out_by_hand(
    module: ModuleType, check: Callable[[ModuleType], None]
) -> None:
    check(module)
