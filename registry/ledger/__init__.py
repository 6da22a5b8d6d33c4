"""The permanent record of promotions, in its own database."""
