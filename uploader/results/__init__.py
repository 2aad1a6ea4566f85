"""Results and failed files: their names, what stands in them, how they are opened again; and books that balance."""
