"""Public fakes: everything around an engine in memory, without root, sockets or waiting."""
