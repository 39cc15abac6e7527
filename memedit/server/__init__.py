"""The OpenAI-compatible surface: what a request says, and where its edits go.

app.py         from a configuration to a served application
listen.py      the HTTP server in front of the proxy, with limits
door.py        in front of everything: keys, before a body is read
access.py      who may do what: the one place that decides
keys.py        admin keys
audit.py       the audit log of the edits API
api.py         the edits API's operations
api_models.py  what it takes and gives
api_errors.py  how it says no
operations.py  health, metrics and the limit on bodies
middleware.py  the ASGI middleware: decide, rewrite, pass on
surfaces.py    which member of which path holds the prompts
options.py     what a request says to memedit itself
body.py        a JSON body whose members can be replaced without touching the other bytes
tokens.py      what only the server's tokenizer knows
decider.py     decisions for concurrent requests, micro-batched on one thread, remembered
freshness.py   for how long a remembered decision stays true
answers.py     what is added to responses, and refusals held back
proxy.py       an ASGI application that forwards to an upstream server, bytes as they are
upstream.py    the HTTP client for that: bytes, back-pressure, kept connections
metrics.py     what Prometheus is told
spans.py       OpenTelemetry, where it is configured
logs.py        where a server's own log lines go
asgi.py        the types of ASGI, and a whole response in one call
process.py     a server in a process of its own, for the demo, tests and benchmarks
"""
