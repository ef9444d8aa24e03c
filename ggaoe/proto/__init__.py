"""AoE on the wire and what its commands mean, without I/O, clocks or asyncio."""
