"""What runs and their results say to a person, or to a program that reads them."""
