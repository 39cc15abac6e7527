"""The OpenAI-compatible surface: what a request says, and where its edits go.

body.py        a JSON body whose members can be replaced without touching the other bytes
surfaces.py    which member of which path holds the prompts
middleware.py  the ASGI middleware: decide, rewrite, pass on
proxy.py       an ASGI application that forwards to an upstream server, bytes as they are
decider.py     decisions for concurrent requests, micro-batched on one thread
door.py        who gets to the edits API, and how far the namespace header goes
api.py         the edits API's operations
api_models.py  what it takes and gives
api_errors.py  how it says no
keys.py        admin keys
audit.py       the audit log
app.py         the proxy as one application
process.py     a server in a process of its own, for the demo, tests and benchmarks
logs.py        where a server's own log lines go
"""
