"""Decoding: plain, which is the reference, and self-speculative with the model's own heads."""
