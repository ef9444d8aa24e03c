"""Where bytes live: the backend contract (`base`) and its implementations."""
