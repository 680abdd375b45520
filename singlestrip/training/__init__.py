"""Networks learn: the one training loop, what the cascade learns from, and the level of its border."""
