"""When a request may start and with whom: pure policy, without I/O, clocks or asyncio."""
