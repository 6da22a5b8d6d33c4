"""Online learning of calibrations: a pure fold over sessions. NumPy only, no I/O."""
