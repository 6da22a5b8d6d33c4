"""Data sets of a user's own prices: judged, and made into returns with market columns."""
