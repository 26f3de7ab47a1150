"""Prompt in, deltas out: one narrow protocol, and the backends that serve it."""
