"""A metering backend on one's own machine, to try uploads against."""
