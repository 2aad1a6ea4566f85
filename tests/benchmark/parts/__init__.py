"""The parts of the benchmark; each has a NAME, a TITLE and a ``measure`` that gives its section."""
