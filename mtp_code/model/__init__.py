"""The model: a shared trunk, n heads, each predicting one future offset, one shared unembedding."""
