"""Is this query about one of these edits?

One classifier a file, each behind :class:`memedit.protocols.ScopeClassifier`; its weights are
data beside it. :mod:`memedit.scope.mention` looks at similarity and at whether the subject is
meant.
"""

from memedit.scope.mention import MentionScope

__all__ = ["MentionScope"]
