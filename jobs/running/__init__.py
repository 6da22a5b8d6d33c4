"""How work is run: workers, progress."""
