"""How work is run: workers, interrupts, progress."""
