"""How many calls at once, how fast, when to wait, when to stop."""
