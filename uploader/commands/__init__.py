"""The command line: options in, words and an exit code out; and the same commands for programs."""
