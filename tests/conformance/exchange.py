"""Checkpoints saved under one line of transformers load under the other: .ci/old-line.sh runs this in both.

    python -m tests.conformance.exchange write FOLDER     # under one line
    python -m tests.conformance.exchange read FOLDER      # under the other

Every encoder, every bridge and every decoder is in one combination at least. Each is saved with the audio positions,
the loss and the tokens that it gives; what reads it must find the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nuebridge.checkpoint import load, save
from nuebridge.errors import CheckpointError, PluginError
from nuebridge.model import Integration
from nuebridge.testing.integrations import batch, clips, evaluated, is_tie, recognized
from tests.conformance.combinations import Combination, bridges, composed, decoders, encoders, manager, registry

TOLERANCE = 2e-4
FEWEST = 20
"""Checkpoints that must be there to compare."""
UNKNOWN = " does not know "
"""Said of a kind of model that is younger than the line that reads."""


def combinations() -> Iterator[Combination]:
    """As many as the longest of the three lists has parts."""
    parts = encoders(), bridges(), decoders()
    for place in range(max(map(len, parts))):
        encoder, bridge, decoder = (kind[place % len(kind)] for kind in parts)
        yield Combination(encoder, bridge, decoder)


def outputs(integration: Integration) -> dict[str, Any]:
    """What an integration makes of fixed clips."""
    data = batch(integration)
    with torch.no_grad():
        audio = integration.embed_audio(data.waveforms, data.lengths)
    return {
        "lengths": audio.lengths.tolist(),
        "positions": [round(value, 6) for value in audio.features[:, :3].flatten().tolist()],
        "loss": evaluated(integration, data),
        "tokens": [list(transcript.token_ids) for transcript in recognized(integration, clips(integration))],
    }


def differences(integration: Integration, expected: dict[str, Any]) -> list[str]:
    """What an integration gives otherwise than it did where it was saved."""
    found = outputs(integration)
    if found["lengths"] != expected["lengths"]:
        return [f"{found['lengths']} audio positions, not {expected['lengths']}"]
    apart = float((torch.tensor(found["positions"]) - torch.tensor(expected["positions"])).abs().max())
    wrong = [f"audio positions differ by {apart:.2g}"] if apart > TOLERANCE else []
    if abs(found["loss"] - expected["loss"]) > TOLERANCE:
        wrong.append(f"the loss is {found['loss']:.5f}, not {expected['loss']:.5f}")
    for clip, ours, theirs in zip(clips(integration), found["tokens"], expected["tokens"], strict=True):
        if ours != theirs and not is_tie(integration, clip, ours, theirs):
            wrong.append(f"tokens are {ours}, not {theirs}")
    return wrong


def write(root: Path) -> int:
    """Saves every combination; returns how many failed, which is none."""
    for combination in combinations():
        integration = composed(combination)
        save(integration, root / str(combination))
        (root / f"{combination}.json").write_text(json.dumps(outputs(integration)))
    return 0


def read(root: Path) -> int:
    """Loads every combination; returns how many are not what they were."""
    same = failed = 0
    for file in sorted(root.glob("*.json")):
        try:
            integration = load(folder_of(file), manager=manager(), registry=registry())
        except (CheckpointError, PluginError) as error:
            unknown = UNKNOWN in str(error)
            failed += not unknown
            print(f"{file.stem}: {'left out: ' if unknown else ''}{error}")
            continue
        wrong = differences(integration, json.loads(file.read_text()))
        failed += bool(wrong)
        same += not wrong
        for one in wrong:
            print(f"{file.stem}: {one}")
    print(f"{same} checkpoints of the other line give the same, {failed} do not")
    return failed if same >= FEWEST else 1


def folder_of(file: Path) -> Path:
    """The checkpoint whose outputs a file has."""
    return file.parent / file.name.removesuffix(".json")


def main() -> None:
    torch.set_num_threads(1)
    act, folder = sys.argv[1:]
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    sys.exit(1 if {"write": write, "read": read}[act](root) else 0)


if __name__ == "__main__":
    main()
