"""What is known of each row and of each run, through any crash."""
