"""Commands: the daemon and its tools, and ggaoectl, which needs neither asyncio nor uvloop."""
