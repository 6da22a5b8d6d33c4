"""HTTP in front of promoted versions."""
