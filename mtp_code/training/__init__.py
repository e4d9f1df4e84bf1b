"""Training with a multi-token objective."""
