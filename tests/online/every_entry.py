"""Downloads what the packaged registry names, loads it, and transcribes with the published Nue-ASR.

For people with a network, some hundreds of GB of disk for everything (see --only and --max-parameters) and, for
Llama and Gemma, an account that accepted their terms (`hf auth login`):

    python tests/online/every_entry.py [--only NAME ...] [--max-parameters 2e9] [--recording FILE.wav] [--json OUT.json]

THIS SCRIPT HAS NOT BEEN RUN: where it was written no hub could be reached. Every checkpoint is loaded through the
same code that the tests run on tiny checkpoints; what has not been seen is the published files themselves.
Each entry prints one line: ok, or what went wrong. The exit status is 1 where anything did.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nuebridge.compose import Workshop, read_sourced
from nuebridge.contracts import SpeechEncoder, TextDecoder
from nuebridge.errors import NuebridgeError
from nuebridge.hookspecs import Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.plugins import PluginManager
from nuebridge.registry import DecoderEntry, EncoderEntry, Layer, Registry, packaged_file
from nuebridge.sizes import PartSize, entry_size, part_size

KINDS: dict[str, type[Component]] = {"encoders": SpeechEncoderComponent, "decoders": TextDecoderComponent}


@dataclass(frozen=True)
class Outcome:
    """What became of one entry."""

    section: str
    name: str
    ok: bool
    said: str
    seconds: float


def parts(workshop: Workshop, only: set[str], most: float) -> Iterator[Outcome]:
    """Every encoder and decoder, loaded and compared with what is computed of it."""
    for section, kind in KINDS.items():
        for one in workshop.registry.entries(section):
            entry = one.entry
            assert isinstance(entry, EncoderEntry | DecoderEntry)
            if only and one.name not in only:
                continue
            start = time.perf_counter()
            try:
                expected = entry_size(entry, one.name, workshop).size
                assert isinstance(expected, PartSize)
                if expected.parameters > most:
                    print(f"left out: {one.name} has {expected.parameters / 1e6:.0f} M parameters", file=sys.stderr)
                    continue
                ref = workshop.manager.find(kind, entry.component)
                # Many older checkpoints are pickles alone; transformers reads those with tensors only.
                options = ref.parse_options({"allow_pickle": True, **entry.options})
                part = read_sourced(workshop, ref, entry.source, options, revision=entry.revision)
                said, ok = compare(part, expected)
            except NuebridgeError as error:
                said, ok = str(error), False
            yield Outcome(section, one.name, ok, said, time.perf_counter() - start)
            part = None
            gc.collect()


def compare(part: Any, expected: PartSize) -> tuple[str, bool]:
    """Whether a part that was loaded is as large as was computed, and does something."""
    found = part_size(part)
    if found != expected:
        return f"computed {expected}, loaded {found}", False
    with torch.inference_mode():
        if isinstance(part, SpeechEncoder):
            samples = torch.randn(1, 2 * part.sample_rate, generator=torch.Generator().manual_seed(0))
            frames = part.eval()(samples, torch.tensor([samples.shape[1]]))
            told = int(part.output_lengths(torch.tensor([samples.shape[1]])))
            finite = bool(frames.features.isfinite().all())
            return f"{told} frames of 2 s", finite and int(frames.lengths) == told
        assert isinstance(part, TextDecoder)
        text = "The quick brown fox. 今日は良い天気です。"
        ids = part.encode(text)
        logits = part.eval()(part.embed(torch.tensor([ids])), torch.ones(1, len(ids), dtype=torch.int64), 1)
        return f"{len(ids)} tokens, back: {part.decode(ids)!r}", bool(logits.isfinite().all())


def nue_asr(workshop: Workshop, recording: Path | None) -> Outcome:
    """The published Nue-ASR, and what it hears."""
    from nuebridge.checkpoint import load

    start = time.perf_counter()
    try:
        model = load("nue-asr", dtype="bfloat16", manager=workshop.manager, registry=workshop.registry)
        if recording is None:
            said, ok = "loaded; give --recording FILE.wav (Japanese) to transcribe", True
        else:
            said = model.transcribe(str(recording))[0].text
            ok = bool(said.strip())
    except NuebridgeError as error:
        said, ok = str(error), False
    return Outcome("integrations", "nue-asr", ok, said, time.perf_counter() - start)


def main() -> int:
    """Goes through the registry; 0 where all went well."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="*", default=[], help="names of entries")
    options.add_argument("--max-parameters", type=float, default=float("inf"))
    options.add_argument("--recording", type=Path, help="a Japanese recording for Nue-ASR")
    options.add_argument("--json", type=Path, help="write the outcomes to this file")
    given = options.parse_args()
    workshop = Workshop(PluginManager.discover(), Registry([Layer("packaged", packaged_file())]))
    outcomes = []
    for outcome in parts(workshop, set(given.only), given.max_parameters):
        outcomes.append(outcome)
        print(f"{'ok    ' if outcome.ok else 'FAILED'} {outcome.name:28} {outcome.seconds:7.1f} s  {outcome.said}")
    if not given.only or "nue-asr" in given.only:
        outcomes.append(nue_asr(workshop, given.recording))
        print(f"{'ok    ' if outcomes[-1].ok else 'FAILED'} nue-asr  {outcomes[-1].said}")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=2, ensure_ascii=False) + "\n")
    return 0 if all(one.ok for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
