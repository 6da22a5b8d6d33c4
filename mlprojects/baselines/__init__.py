"""Statistical baselines, which a network must beat."""
