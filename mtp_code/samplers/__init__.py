"""What draws answers to prompts: our engine, transformers, vLLM, or an endpoint elsewhere."""
