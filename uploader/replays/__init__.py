"""The failed rows again: what a person and a spreadsheet made of them, and which of them may be posted."""
