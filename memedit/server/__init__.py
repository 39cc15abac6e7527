"""The OpenAI-compatible surface: what a request says, and where its edits go.

body.py        a JSON body whose members can be replaced without touching the other bytes
surfaces.py    which member of which path holds the prompts
middleware.py  the ASGI middleware: decide, rewrite, pass on
proxy.py       an ASGI application that forwards to an upstream server, bytes as they are
decider.py     decisions for concurrent requests, micro-batched on one thread
app.py         the proxy as one application
process.py     a server in a process of its own, for the demo, tests and benchmarks
logs.py        where a server's own log lines go
"""
