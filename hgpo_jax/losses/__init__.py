"""Losses: pure functions of token log-probs `[B, L]`; no model, no env."""
