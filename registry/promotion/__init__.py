"""Which version is in which stage, and how it came there."""
