"""What the memory holds for long, moved into weights.

export.py   deltas as a LoRA adapter in PEFT's layout, or merged into a checkpoint
"""
