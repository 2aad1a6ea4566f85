"""A usage log in any format: numbered rows, and the usage events in them."""
