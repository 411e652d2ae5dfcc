"""What `training` is made of: rows to tokens, batches, TRL's trainers with our settings, adapters, packing."""
