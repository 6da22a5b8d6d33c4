"""What a forecast is, and where models are kept."""
