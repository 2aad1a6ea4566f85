"""Results and failed files: their names, what stands in them, how they come back; and books that must balance."""
