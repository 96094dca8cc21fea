"""Puts a trained model into the package: bfloat16 weights, and a check that nothing got lost.

python package.py --model work/runs/joint/final --package ../src/nuebridge_tiny
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import nuebridge
from nuebridge.checkpoint import save


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
    save(integration, folder, dtype="bfloat16", overwrite=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    packaged = nuebridge.load(folder)
    print(f"{folder}: {size / 1e6:.2f} MB, weight hash {packaged.weight_hash()}")


if __name__ == "__main__":
    main()
