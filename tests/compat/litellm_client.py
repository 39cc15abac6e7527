"""LiteLLM as a client: a request a line on standard input, an answer a line on standard output.

Runs with the Python of an environment that has LiteLLM and nothing of memedit.
"""

import json
import os
import sys

import litellm

litellm.suppress_debug_info = True
litellm.num_retries = 0

CALLS = {
    "chat": (litellm.completion, "openai/", "/v1"),
    "text": (litellm.text_completion, "text-completion-openai/", "/v1"),
    "responses": (litellm.responses, "openai/", "/v1"),
    "embeddings": (litellm.embedding, "openai/", "/v1"),
    "messages": (litellm.anthropic.messages.create, "anthropic/", ""),
}


def dumped(answer):
    if hasattr(answer, "model_dump"):
        return answer.model_dump(mode="json")
    if isinstance(answer, (dict, str)):
        return answer
    if isinstance(answer, bytes):
        return answer.decode()
    return [dumped(event) for event in answer]


def answered(url, api, options):
    call, prefix, path = CALLS[api]
    options["model"] = prefix + options["model"]
    try:
        return dumped(call(**options, api_base=url + path, api_key="none"))
    except Exception as error:
        status = getattr(error, "status_code", None)
        if status is None:
            raise
        return {"refused": status, "said": str(error)}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what LiteLLM prints is no answer
    for line in sys.stdin:
        print(json.dumps(answered(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
