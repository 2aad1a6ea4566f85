"""The proof that nothing is billed twice and nothing lost: faults of every kind, and what must hold after each."""
