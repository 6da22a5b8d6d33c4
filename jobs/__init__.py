"""One verb per file: python -m jobs <verb>."""
