"""Upload usage logs to a metering backend: every row posted once, every row accounted for."""
