"""Everything memedit raises on purpose.

    MemeditError
    ├── InvalidInput (ValueError)   what the caller gave cannot be used
    │   ├── InvalidEdit             an edit is malformed or carries text that could open a turn
    │   ├── EditConflict            another edit answers the same fact, and the caller minds
    │   ├── WrongState              an edit's state does not allow what was asked
    │   ├── KeyReused               an idempotency key comes again with other edits
    │   └── ConfigError             an option, environment variable or file holds a wrong value
    ├── MissingData                 a dataset's file is not where it was looked for
    ├── EditNotFound (LookupError)  no edit of that id in this memory
    ├── EditChanged                 an edit is no longer as the caller saw it
    ├── AccessFileError             the file of keys or of changes cannot be read or written
    ├── MemoryFileError             the memory file cannot do what was asked
    │   ├── MemoryFileDamaged       a record fails its checksum, or the file is no journal
    │   └── MemoryFileVersion       the file is of another schema version or another encoder
    ├── MissingDependency           a feature needs a package or a model that is not installed
    ├── Unsupported                 a route or an editor needs what the engine lacks
    └── UpstreamError               the inference server cannot be reached or broke off

Every message says what was wrong, what was expected and what to do about it. Errors of other
libraries are translated once, where they enter, with the original as ``__cause__``.
"""


class MemeditError(Exception):
    """The root of the tree: catch this to catch whatever memedit raises on purpose."""


class InvalidInput(MemeditError, ValueError):
    """What the caller gave cannot be used."""


class InvalidEdit(InvalidInput):
    """An edit is malformed, or carries text that a chat template could read as a turn."""


class EditConflict(InvalidInput):
    """Another edit answers the same fact otherwise, and the caller asked for that to be refused."""


class WrongState(InvalidInput):
    """An edit is in a state that does not allow what was asked."""


class KeyReused(InvalidInput):
    """An idempotency key was used before, in the same namespace, for other edits."""


class ConfigError(InvalidInput):
    """An option, an environment variable or a configuration file holds a wrong value."""


class MissingData(MemeditError):
    """A dataset's file is not where it was looked for."""


class EditNotFound(MemeditError, LookupError):
    """There is no edit of that id in this memory."""


class EditChanged(MemeditError):
    """An edit is no longer as the caller saw it: somebody else, or the clock, came first."""


class AccessFileError(MemeditError):
    """The file of admin keys, or the one that notes changes, cannot be read or written."""


class MemoryFileError(MemeditError):
    """The memory file cannot be opened, read or written."""


class MemoryFileDamaged(MemoryFileError):
    """A record of the memory file fails its checksum, or the file is not a journal at all."""


class MemoryFileVersion(MemoryFileError):
    """The memory file was written by another schema version, or with another encoder."""


class MissingDependency(MemeditError):
    """A feature needs a package or a model that is not installed."""


class Unsupported(MemeditError):
    """A route or an editor needs a capability that the engine does not have."""


class UpstreamError(MemeditError):
    """The inference server cannot be reached, or broke off in the middle of an answer."""
