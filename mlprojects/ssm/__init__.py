"""State space models: S4D networks over long histories."""
