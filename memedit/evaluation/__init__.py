"""Measuring whether edits work: ``memedit evaluate``. What is measured is in docs/measures.md.

cases.py          the common case: edits, and probes in and out of scope
datasets/         public datasets, each turned into cases
methods/          what is put to the test, one method a file
plan.py           which cases, which pools, in which order
interference.py   probes that are about another case's edit
transcript.py     what the engine has said: why a run can be stopped and resumed
runner.py         carries a plan out, in one folder
verdicts.py       from an answer to a verdict
matching.py       does an answer state a fact?
measures.py       the survey's six measures, and what other frameworks print
intervals.py      rates with bootstrap intervals
report.py         from verdicts to numbers
page.py           report.html
compare.py        runs side by side
"""
