"""Rows that are due: customer known, marked as sending, posted, recorded; and what lives for a whole command."""
