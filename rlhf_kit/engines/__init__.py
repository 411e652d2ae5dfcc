"""What `sampling` is made of: how a token is drawn, vLLM in process, servers, shards that lose no row, log-probabilities."""
