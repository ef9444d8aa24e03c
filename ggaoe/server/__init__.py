"""The daemon: which interfaces and devices there are, and what happens rarely."""
