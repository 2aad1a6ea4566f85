"""Calls over HTTP, many at once, each sent at most once; and one at a time, for programs."""
