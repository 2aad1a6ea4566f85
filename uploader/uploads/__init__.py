"""An upload: whether it may begin, which of its rows are posted, what became of each."""
