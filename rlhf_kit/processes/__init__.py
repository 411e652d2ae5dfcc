"""More than one process: jobs through accelerate, their workers, and rows divided among them."""
