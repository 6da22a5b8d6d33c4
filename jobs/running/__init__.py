"""How work is run: workers, interrupts."""
