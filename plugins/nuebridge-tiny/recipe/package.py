"""Puts a trained model into the package: bfloat16 weights, and a check that nothing got lost.

python package.py --model work/runs/polish/final --package ../src/nuebridge_tiny
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import nuebridge
from nuebridge.checkpoint import save


def without_folders(entry: Any) -> Any:
    """What was done, and not in which folders of the machine that did it."""
    if isinstance(entry, dict):
        return {key: without_folders(value) for key, value in entry.items() if key != "output"}
    if isinstance(entry, list):
        return [without_folders(value) for value in entry]
    return Path(entry).name if isinstance(entry, str) and "/" in entry else entry


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--package", type=Path, required=True)
    arguments = parser.parse_args()
    folder = arguments.package / "model"
    integration = nuebridge.load(arguments.model)
    # The parts began in folders that nobody else has.
    integration.part_info = {
        name: replace(info, source=None, source_hash=None) for name, info in integration.part_info.items()
    }
    integration.training_history = [without_folders(entry) for entry in integration.training_history]
    save(integration, folder, dtype="bfloat16", overwrite=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    packaged = nuebridge.load(folder)
    print(f"{folder}: {size / 1e6:.2f} MB, weight hash {packaged.weight_hash()}")


if __name__ == "__main__":
    main()
