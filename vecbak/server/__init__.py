"""The HTTP API: the operations of the command line, with the same guarantees (extra `api`)."""
