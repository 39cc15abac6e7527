"""The durable truth: an append-only journal of events in one SQLite file.

Everything else that the memory holds (index, lexicon, records) can be thrown away and rebuilt
from here. ``events.py`` says what an event is and how a transaction writes it, ``schema.py`` lays
out the file and migrates older ones, ``file.py`` opens, reads, writes and looks after it.
"""

from memedit.journal.events import Event, EventKind, Transaction
from memedit.journal.file import Journal
from memedit.journal.schema import APPLICATION_ID, SCHEMA_VERSION

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "Event", "EventKind", "Journal", "Transaction"]
