"""The folder that an adaptation writes.

adapter.json  decoder/ ...   the adapter, as nuebridge.lora reads it; adapter.json comes last
results.json  results.md     what it ends with
texts.jsonl                  the test data: what was said, and what is written before and after
data/                        the parts that the new data was split into
run/                         the training run
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from nuebridge.adapt.settings import AdaptSettings
from nuebridge.errors import CheckpointError, ConfigError, TrainingError
from nuebridge.lora.storage import ADAPTER_FILE
from nuebridge.tensors import flush
from nuebridge.train.folder import BEST, CHECKPOINTS, FINAL, Resume
from nuebridge.train.state import checkpoints

DATA, RESULTS, TABLE, TEXTS = "data", "results.json", "results.md", "texts.jsonl"


def is_finished(settings: AdaptSettings, resume: Resume) -> bool:
    """Whether the folder holds a finished adaptation, to be shown again.

    Raises ConfigError and TrainingError where what is in it does not go with ``resume``.
    """
    output = settings.output
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; choose another output")
    if (output / ADAPTER_FILE).exists():
        if resume == "never":
            raise TrainingError(f"{output} holds an adapter already; choose another output")
        return True
    if has_progress(settings):
        if resume == "never":
            raise TrainingError(
                f"{output} holds an adaptation already; pass --resume auto to go on with it, or choose another output"
            )
        return False
    if resume == "must":
        raise TrainingError(f"{output} holds nothing to go on with; pass --resume auto to begin, or mend the path")
    there = output.iterdir() if output.is_dir() else ()
    # What begins as the folder of the data does is being written by the main process, or left by one that died.
    strange = sorted(
        one.name for one in there if one.name not in (DATA, "run") and not one.name.startswith(f".{DATA}.")
    )
    if strange:
        raise ConfigError(
            f"{output} exists and holds something else than an adaptation ({', '.join(strange[:3])}); choose another "
            "output"
        )
    return False


def has_progress(settings: AdaptSettings) -> bool:
    """Whether there is training to go on with."""
    return (settings.run / FINAL).exists() or bool(checkpoints(settings.run / CHECKPOINTS))


def adapter_name(settings: AdaptSettings) -> str:
    """What the adapter is called. Raises ConfigError where its folder cannot name it."""
    if settings.name is not None:
        return settings.name
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", settings.output.absolute().name).strip("-_")[:64]
    if not name:
        raise ConfigError(f"{settings.output} cannot name an adapter; give it a name with --name")
    return name


def put_adapter(written: Path, output: Path) -> None:
    """Moves a saved adapter into the output folder; until all of it is there, there is none. Raises CheckpointError."""
    try:
        for path in sorted(written.iterdir(), key=lambda path: path.name == ADAPTER_FILE):
            target = output / path.name
            if target.is_dir():  # of a process that died here
                shutil.rmtree(target)
            if path.name == ADAPTER_FILE:
                flush(output)
            os.replace(path, target)
        flush(output)
        written.rmdir()
    except OSError as error:
        raise CheckpointError(f"cannot save the adapter to {output}: {error.strerror}") from error


def drop_weights(run: Path) -> None:
    """Removes a run's checkpoints; what was logged of it stays."""
    for name in (CHECKPOINTS, BEST, FINAL):
        shutil.rmtree(run / name, ignore_errors=True)
