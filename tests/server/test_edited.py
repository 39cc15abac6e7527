import pytest

from memedit.edits import structured

pytestmark = pytest.mark.vllm


def test_smoke(served, add_edit):
    c, e, a = served.chat("What is the capital of France?")
    print(c.status, c.response_headers, a)
    r = add_edit(structured("France", "The capital of {} is", "Lyon"))
    c, e, a = served.chat("What is the capital of France?")
    print(c.status, c.response_headers, e.body, a)
    assert 0
