"""Foreign configurations become ours: a file for each program that is read, one model of what they
export, one writer. Knows configuration and protocol; starts nothing and writes no file."""
