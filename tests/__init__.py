"""The tests: real files, real sockets, real processes."""
