"""Trains by several configurations in a row, in as many processes as torchrun starts: to start them takes the longest.

torchrun ... several.py REGISTRY SITE CONFIG...     a CONFIG may be followed by ``:auto``, to resume
"""

from __future__ import annotations

import sys
from pathlib import Path

from nuebridge.compose import Workshop
from nuebridge.errors import NuebridgeError
from nuebridge.plugins import PluginManager
from nuebridge.registry import Layer, Registry
from nuebridge.train.config import TrainConfig
from nuebridge.train.loop import train
from nuebridge.train.ranks import joined


def main(registry: str, site: str, *files: str) -> None:
    workshop = Workshop(PluginManager.discover({}, path=[site]), Registry([Layer("option", Path(registry))]))
    with joined(as_group=True):
        for file in files:
            name, _, resume = file.partition(":")
            config = TrainConfig.model_validate_json(Path(name).read_text())
            try:
                train(config, workshop, resume="auto" if resume else "never")
            except NuebridgeError as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
