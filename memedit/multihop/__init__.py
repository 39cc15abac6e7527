"""Questions that take several hops: "the capital of the country that X is a citizen of".

    chain.py       what a question under way needs and what comes of it, as values
    mello.py       MeLLo: the model divides the question and judges the facts it is shown
    guided.py      mello-guided: a decomposer divides it, scope finds the edits, the model fills in
    start.py       which entity a question starts from
    decompose.py   which relations lead on from there; decoder.py is the trained part
    relations.py   the library of relations; relations.json
    answers.py     from what a model says to a name
    route.py       puts what the hops found in front of the caller's own words
    drive.py       runs thousands of questions over an engine that batches, or one in a server
    prompts/       the texts that a model is shown
    weights/       of the decomposer

Nothing here asks a model, a memory or a classifier by itself: see :data:`chain.Steps`.
"""
