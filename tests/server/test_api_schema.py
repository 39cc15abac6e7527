"""The OpenAPI schema is true, and what follows it breaks nothing: schemathesis makes requests."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.server.edits_api import EDITS, Api, code

schemathesis = pytest.importorskip("schemathesis", reason="use the extra dev")

EXAMPLES = 30


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Api, str]]:
    with tempfile.TemporaryDirectory() as folder, Api(Path(folder) / "memory.sqlite3") as api:
        _, secret = api.key()
        yield api, secret


@pytest.fixture(scope="module")
def schema(served: tuple[Api, str]) -> Any:
    api, secret = served
    client = api.bare(**{"x-memedit-key": secret})
    client.post(EDITS, json={"statement": "The capital of France is Lyon.", "id": "capital"})
    client.post(EDITS, json={"statement": "The capital of France is Nice.", "policy": "keep"})
    # As a server does before it listens: the first to ask waits no seconds for a model to load.
    api.parts.warm()
    api.recent.saw(["What is the capital of France?"], "default")
    return schemathesis.openapi.from_asgi(
        f"{EDITS}/openapi.json", api.app, headers={"x-memedit-key": secret}
    )


LEFT_OUT = {
    # A fact in a valid form may still be refused for what it says: text that opens a chat turn,
    # an id that is taken, a cursor of another list.
    "positive_data_acceptance",
    # Every request here carries a good key; test_api_access.py is about the others.
    "ignored_auth",
}


def checks() -> list[Any]:
    """All of schemathesis's, but those."""
    from schemathesis import checks as known

    known.load_all_checks()
    found = [check for check in known.CHECKS.get_all() if check.__name__ not in LEFT_OUT]
    assert len(found) > 8
    return found


OPERATIONS = [
    ("GET", EDITS),
    ("POST", EDITS),
    *(("POST", f"{EDITS}/{name}") for name in ("search", "explain", "import")),
    *(("GET", f"{EDITS}/{name}") for name in ("history", "conflicts", "audit", "export", "key")),
    *(("GET", f"{EDITS}/{{edit_id}}{name}") for name in ("", "/history", "/conflicts")),
    *(("POST", f"{EDITS}/{{edit_id}}/{name}") for name in ("supersede", "revert", "restore")),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_the_schema_describes_is_what_is_served(
    method: str, path: str, schema: Any, served: tuple[Api, str]
) -> None:
    statuses: Counter[int] = Counter()
    asked = schema[path][method]
    modes = schemathesis.GenerationMode

    def ask(case: Any) -> None:
        edit_id = (case.path_parameters or {}).get("edit_id")
        if edit_id is not None and len(edit_id) % 2:
            case.path_parameters["edit_id"] = "capital"
        response = case.call(headers={"x-memedit-key": served[1]})
        statuses[response.status_code] += 1
        case.validate_response(response, checks=checks())

    for mode in (modes.POSITIVE, modes.NEGATIVE):

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(asked.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            ask(case)

        run()
    # Both what goes well and what does not were seen, where chance can make something good.
    assert min(statuses) < 300 or path.endswith(("/import", "/supersede")), statuses
    assert 400 <= max(statuses) < 500, statuses


def test_the_schema_lists_every_operation_and_no_other(served: tuple[Api, str]) -> None:
    api, secret = served
    said = api.bare(**{"x-memedit-key": secret}).get(f"{EDITS}/openapi.json").json()
    assert said["openapi"].startswith("3.1")
    assert {(m.upper(), path) for path, ops in said["paths"].items() for m in ops} == set(
        OPERATIONS
    )
    listed = {
        (method.upper(), path, operation["x-memedit-role"])
        for path, operations in said["paths"].items()
        for method, operation in operations.items()
    }
    there = {
        (method, route.path, route.openapi_extra["x-memedit-role"])  # type: ignore[attr-defined]
        for route in api.app.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert there - listed == {("GET", f"{EDITS}/openapi.json", "read")}
    assert listed <= there
    assert said["security"] == [{"header": []}, {"bearer": []}, {"api-key": []}]
    assert "HTTPValidationError" not in str(said)


def test_the_check_can_fail(served: tuple[Api, str]) -> None:
    """A schema that promises something else is found out."""
    api, secret = served
    said = api.bare(**{"x-memedit-key": secret}).get(f"{EDITS}/openapi.json").json()
    said["components"]["schemas"]["EditObject"]["properties"]["statement"] = {"type": "integer"}
    wrong = schemathesis.openapi.from_dict(said)
    case = wrong[EDITS]["GET"].Case(headers={"x-memedit-key": secret})
    response = api.bare(**{"x-memedit-key": secret}).get(EDITS)
    assert response.json()["data"]
    with pytest.raises(BaseExceptionGroup) as found:
        case.validate_response(response, checks=checks())
    assert [type(one).__name__ for one in found.value.exceptions] == ["JsonSchemaError"]
    assert code(api.bare().get(f"{EDITS}/openapi.json"), 401) == "invalid_api_key"
