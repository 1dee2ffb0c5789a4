"""Training the reference vision-language model on generated scenes: ``python -m analysis train``."""
