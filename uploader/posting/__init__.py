"""Rows that are due: customer known, marked as sending, posted, recorded."""
