"""What a vision-language model is made of: families, prompts, encoders, towers, wrappers."""
