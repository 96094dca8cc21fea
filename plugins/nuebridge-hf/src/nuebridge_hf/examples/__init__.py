"""Tiny random checkpoints of every kind that this plugin reads, for tests; see :mod:`nuebridge.testing`."""
