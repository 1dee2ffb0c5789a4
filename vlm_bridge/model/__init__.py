"""Read a vision-language model: family, prompt, encoder, vision tower, decoder, wrappers."""
