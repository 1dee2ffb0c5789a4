"""Prune inside the LLM: hooks on decoder layers, sequences that shorten on the way, a KV cache length for each layer."""
