"""Statistical baselines: what a network has to beat."""
