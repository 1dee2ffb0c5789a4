"""Report what pruning did and what it cost: records, costs, pictures."""
