"""Data sets: prices in, checked files out, read by name."""
