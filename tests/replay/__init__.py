"""A replay: which rows it posts, whatever a person, a spreadsheet or a crash did to its file."""
