"""What the uploader costs and how fast it is, beside what others make of the same server; see docs/benchmark.md."""
