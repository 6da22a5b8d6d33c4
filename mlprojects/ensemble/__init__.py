"""Averages of other models."""
