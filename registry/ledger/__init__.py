"""What must not be forgotten, in a database of its own."""
