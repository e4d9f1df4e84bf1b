"""A server of our own engine that speaks OpenAI's API, an extra: `mtp-code[serve]`."""
