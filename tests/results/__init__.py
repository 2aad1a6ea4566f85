"""The results and failed files: their names, what a crash leaves of them, and their contents to the byte."""
