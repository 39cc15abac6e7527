"""How the weights that ship with memedit are made, from public data and from our own words.

:mod:`~memedit.training.worlds` reads the data and says which edit each text is about;
:mod:`~memedit.training.pairs` makes of it the pairs that the relation verifier learns from,
together with the phrasings in ``phrasings.json``; :mod:`~memedit.training.lora` trains it;
:mod:`~memedit.training.scope` fits the probabilities, chooses the threshold and writes the
folder that :class:`memedit.scope.VerifiedScope` reads.
"""
