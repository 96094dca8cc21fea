"""Where figures go beside ``metrics.jsonl``: TensorBoard, Weights & Biases. Each is a package of its own."""

from __future__ import annotations

import html
import importlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from nuebridge.errors import TrainingError
from nuebridge.tensors import write_text
from nuebridge.train.config import TrainConfig

TENSORBOARD_FOLDER = "tensorboard"
"""In the run's folder: ``tensorboard --logdir RUN/tensorboard``."""
WANDB_ID_FILE = "wandb-id.txt"
"""In the run's folder: the id under which a resumed run goes on in Weights & Biases."""

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


class Logger(Protocol):
    """Takes the lines of the record."""

    def write(self, line: Mapping[str, Any]) -> None:
        """One line of kind ``train`` or ``validation``; steps only rise."""

    def close(self) -> None:
        """No more lines will come."""


def check_loggers(names: Sequence[str]) -> None:
    """Raises TrainingError naming what is to be installed for loggers that are configured."""
    for name in names:
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise TrainingError(
                f'loggers: {name} cannot be imported ({error}); run `pip install "nuebridge[{name}]"`, '
                f"or leave {name} out of loggers"
            ) from error


def open_loggers(config: TrainConfig, step: int) -> list[Logger]:
    """The loggers of a run that has done ``step`` steps; what they hold of later ones, they drop or do not repeat."""
    made: list[Logger] = []
    for name in config.loggers:
        made.append(_TensorBoard(config, step) if name == "tensorboard" else _WeightsAndBiases(config))
    return made


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a line by names in levels: ``train/loss``, ``train/learning_rate/bridge``."""
    for name, value in line.items():
        if name in ("kind", "step", "stage"):
            continue
        for tail, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            if isinstance(number, int | float):
                yield f"{line['kind']}/{name}" + (f"/{tail}" if tail else ""), float(number)


class _TensorBoard:
    """Event files. What an earlier sitting wrote of steps that are done again, their reader drops."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = str(config.output / TENSORBOARD_FOLDER)
        self._writer = SummaryWriter(folder, purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        step = line["step"]
        for name, number in scalars(line):
            self._writer.add_scalar(name, number, step)
        if line.get("samples"):
            # TensorBoard reads texts as Markdown: theirs is shown as it is.
            shown = [f"<pre>{html.escape(said)}\n{html.escape(heard)}</pre>" for said, heard in line["samples"]]
            self._writer.add_text(f"{line['kind']}/samples", "\n\n".join(shown), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of Weights & Biases. It takes rising steps only, so what is done again is not written again."""

    def __init__(self, config: TrainConfig) -> None:
        import wandb

        file = config.output / WANDB_ID_FILE
        if not file.is_file():
            write_text(file, uuid.uuid4().hex[:8] + "\n")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "nuebridge"),
                name=config.output.name,
                id=file.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(config.output),
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(console="off"),
            )
        except (wandb.Error, OSError) as error:
            raise TrainingError(
                f"loggers: wandb does not start ({error}); run `wandb login`, set WANDB_MODE=offline, or leave it out"
            ) from error
        self._table = wandb.Table

    def write(self, line: Mapping[str, Any]) -> None:
        figures: dict[str, Any] = dict(scalars(line))
        if line.get("samples"):
            figures[f"{line['kind']}/samples"] = self._table(["reference", "hypothesis"], list(line["samples"]))
        self._run.log(figures, step=line["step"])

    def close(self) -> None:
        self._run.finish()
