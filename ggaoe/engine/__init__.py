"""Everything that happens per frame: one contract, `base`, and its implementations."""
