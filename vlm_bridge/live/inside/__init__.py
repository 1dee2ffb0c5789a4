"""Pruning inside the LLM: hooks on decoder layers, sequences that get shorter on the way, one KV length per layer."""
