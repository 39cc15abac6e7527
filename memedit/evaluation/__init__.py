"""Measuring whether edits work.

matching.py   does an answer state a fact?
"""
