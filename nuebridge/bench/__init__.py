"""Measures nuebridge beside other ways of doing the same, each measurement in a process of its own."""

from nuebridge.bench.meter import Meter
from nuebridge.bench.work import TrainingWork

__all__ = ["Meter", "TrainingWork"]
