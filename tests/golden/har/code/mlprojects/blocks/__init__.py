"""Torch pieces that several families share."""
