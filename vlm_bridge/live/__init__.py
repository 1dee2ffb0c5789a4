"""Prune a live model: the block, the calls in it, and what is put on the model."""
