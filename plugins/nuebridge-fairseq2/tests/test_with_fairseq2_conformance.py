"""nuebridge's own suite over every tiny checkpoint of this plugin."""

from __future__ import annotations

from nuebridge.testing import conformance

TestWav2Vec2 = conformance("fairseq2.wav2vec2")
TestW2vBert = conformance("fairseq2.w2v-bert")
