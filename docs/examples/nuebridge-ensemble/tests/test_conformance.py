"""What nuebridge expects of every part: lengths, padding, batches, gradients, saving and loading, precision."""

from __future__ import annotations

from nuebridge.testing import conformance

TestEnsemble = conformance("ensemble.encoders")
TestLogMel = conformance("ensemble.log-mel")
