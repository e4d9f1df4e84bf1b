"""From corpora to batches: read, filter, cut into token shards, pack, mix."""
