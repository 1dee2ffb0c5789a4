"""What the papers claim, tried: statements, exact laws, and sabotaged methods."""
