"""The ``memedit`` command.

app.py       the application, its version and how errors end a command
options.py   the options that commands share
output.py    tables for people, JSON for programs
edits.py     memedit edits add|list|show|search|revert|history|import|export
memory.py    memedit memory check|rebuild|compact|stats|backup
keys.py      memedit keys add|list|revoke
audit.py     memedit audit
explain.py   memedit explain
serve.py     memedit serve
ask.py       memedit ask
evaluate.py  memedit evaluate
report.py    its figures on the terminal
compare.py   memedit compare
datasets.py  memedit datasets
demo.py      memedit demo
"""


def main() -> None:
    """The console script."""
    from memedit.cli.app import app

    app()
