"""What is tried without posting: a log by itself, the way to the backend, an upload but for its posts."""
