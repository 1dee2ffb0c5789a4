"""Choose which tokens to keep: requests, signals, choices, merging and folding."""
