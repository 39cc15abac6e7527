"""LiteLLM as a client: a request a line on standard input, an answer a line on standard output.

Runs with the Python of an environment that has LiteLLM and nothing of memedit.
"""

import asyncio
import json
import os
import sys

import litellm

litellm.suppress_debug_info = True
litellm.num_retries = 0


async def messages(**options):
    """Anthropic's API, which LiteLLM has as a coroutine only; a stream of it comes as bytes."""
    answer = await litellm.anthropic.messages.acreate(**options)
    if not options.get("stream"):
        return answer
    raw = b"".join([piece async for piece in answer]).decode()
    lines = [line.partition("data:")[2] for line in raw.splitlines()]
    return [json.loads(line) for line in lines if line.strip().startswith("{")]


CALLS = {
    "chat": (litellm.completion, "openai/", "/v1"),
    "text": (litellm.text_completion, "text-completion-openai/", "/v1"),
    "responses": (litellm.responses, "openai/", "/v1"),
    "embeddings": (litellm.embedding, "openai/", "/v1"),
    "messages": (lambda **options: asyncio.run(messages(**options)), "anthropic/", ""),
}


def dumped(answer):
    if hasattr(answer, "model_dump"):
        return answer.model_dump(mode="json")
    if isinstance(answer, dict):
        return answer
    return [dumped(event) for event in answer]


def answered(url, api, options):
    call, prefix, path = CALLS[api]
    options["model"] = prefix + options["model"]
    try:
        return dumped(call(**options, api_base=url + path, api_key="none"))
    except Exception as error:
        status = getattr(error, "status_code", None)
        if status is None:  # LiteLLM's own, which one call has to fail for, and not all that follow
            return {"failed": repr(error)}
        return {"refused": status, "said": str(error)}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what LiteLLM prints is no answer
    for line in sys.stdin:
        print(json.dumps(answered(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
