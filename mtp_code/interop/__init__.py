"""Models of others in, our models out: Hugging Face folders, published checkpoints, vLLM."""
