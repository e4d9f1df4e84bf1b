"""Losses of states behind an unembedding, whose logits never exist as a whole."""
