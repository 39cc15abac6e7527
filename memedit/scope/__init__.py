"""Is this query about one of these edits?

:class:`VerifiedScope` is what is used, behind :class:`memedit.protocols.ScopeClassifier`. It asks
:mod:`memedit.scope.reading` what of a query may be about an edit and
:mod:`memedit.scope.relation` whether that asks the edit's relation. The weights are data in
``verifier/`` beside it, made by :mod:`memedit.training`. :class:`AnyLanguage` stands in front of it
where prompts come in other languages than English.
"""

from memedit.scope.languages import AnyLanguage
from memedit.scope.relation import RelationVerifier
from memedit.scope.verified import VerifiedScope

__all__ = ["AnyLanguage", "RelationVerifier", "VerifiedScope"]
