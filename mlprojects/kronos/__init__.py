"""Kronos: its tokenizer, predictor and sampler, and a simulator of bars."""
