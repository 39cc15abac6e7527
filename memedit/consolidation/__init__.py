"""What the memory holds for long, moved into weights.

job.py        what `memedit consolidate make` does, from the memory to a version
choosing.py   which edits are to move, and why others are kept
making.py     the changes, batch by batch, and where they go on after a stop
gates.py      what a version has to pass, asked of the edited model
export.py     deltas as a LoRA adapter in PEFT's layout, or merged into a checkpoint
versions.py   the folder of versions; in service, and out of it
"""
