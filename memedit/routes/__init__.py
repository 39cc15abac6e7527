"""How a query that edits are about is answered: one method, one file; prompt texts are files.

ike.py                the new fact, with demonstrations, in front of the question
demonstrations.jsonl  what the demonstrations are drawn from
prompts/              the texts around facts and questions
"""
