"""GRACE: edits as a discrete codebook of activations at one layer.

    codebook.py     keys, values and radii; the paper's rules, and exact rollback
    prompts.py      in which words an edit is learned, and which prompts are not about it

Source: Hartvigsen et al. 2023, "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value
Adaptors", arXiv:2211.11031.
"""
