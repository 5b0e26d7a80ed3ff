"""The real world: ZeroMQ sockets, keys and tickets, threads, files."""
