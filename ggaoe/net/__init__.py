"""Ethernet: packet links and what the kernel says about interfaces."""
