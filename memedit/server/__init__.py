"""The OpenAI-compatible surface: what a request says, and where its edits go.

body.py        a JSON body whose members can be replaced without touching the other bytes
surfaces.py    which member of which path holds the prompts
options.py     what a request says to memedit itself
middleware.py  the ASGI middleware: decide, rewrite, pass on
answers.py     what is added to responses, and refusals held back
tokens.py      what only the server's tokenizer knows
decider.py     decisions for concurrent requests, micro-batched on one thread, remembered
freshness.py   for how long a remembered decision stays true
proxy.py       an ASGI application that forwards to an upstream server, bytes as they are
upstream.py    the HTTP client for that: bytes, back-pressure, kept connections
operations.py  health, metrics and the limit on bodies, in front of everything
metrics.py     what Prometheus is told
spans.py       OpenTelemetry, where it is configured
access.py      who may see explanations and metrics
app.py         from a configuration to a served application
listen.py      the HTTP server in front of the proxy, with limits
asgi.py        the types of ASGI, and a whole response in one call
process.py     a server in a process of its own, for the demo, tests and benchmarks
logs.py        where a server's own log lines go
"""
