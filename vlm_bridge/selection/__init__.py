"""Which tokens to keep: budgets, requests, relevance, folding."""
