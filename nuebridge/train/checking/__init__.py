"""What ``nuebridge train --check`` does: everything is looked at, and all that is wrong is said at once.

Nothing is trained, written or made. Weights are not read where the plugins of the parts can do without.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import torch

from nuebridge.checkpoint import check_device
from nuebridge.compose import Workshop
from nuebridge.config import Document
from nuebridge.errors import NuebridgeError
from nuebridge.train.changes import check_changes
from nuebridge.train.checking.data import open_data, plan
from nuebridge.train.checking.figures import estimate
from nuebridge.train.checking.model import open_model, set_up
from nuebridge.train.checking.report import Finding, Report
from nuebridge.train.config import TrainConfig
from nuebridge.train.fitness import misfits
from nuebridge.train.folder import to_resume
from nuebridge.train.watching import check_loggers

__all__ = ["Finding", "Report", "check"]


def check(document: Document, workshop: Callable[[], Workshop]) -> Report:
    """Looks at a training file and all that it names; ``workshop`` gives plugins and registry."""
    report = Report(document.name)
    config, problems = document.check(TrainConfig)
    for problem in problems:
        report.add("error", "configuration", str(problem))
    # What is right of a faulty file is looked at as well, but not what depends on the whole of it.
    rest = document.check_rest(TrainConfig) if config is None else config
    if rest is None:
        return report
    if config is not None:
        report.add("ok", "configuration", f"{document.name}: every key is known and fits")
    _look_at_output(report, rest)
    device = _look_at_device(report, rest)
    _look_at_loggers(report, rest)
    try:
        integration = open_model(report, rest.model, workshop())
    except NuebridgeError as error:
        report.add("error", "model", str(error))
        integration = None
    sources = open_data(report, rest.data, rest.validation.max_utterances)
    if config is None or integration is None:
        return report
    stages = list(config.unrolled())
    for misfit in misfits(integration, config, stages):
        report.add("error", "model", misfit)
    marked = [set_up(report, integration, stage) for stage in stages]
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    planned = [plan(report, integration, stage, sources, ranks) if sources else None for stage in stages]
    whole = [(s, m, p) for s, m, p in zip(stages, marked, planned, strict=True) if m is not None and p is not None]
    if len(whole) == len(stages):
        estimate(report, config, whole, device)
    return report


def _look_at_output(report: Report, config: TrainConfig) -> None:
    output = config.output
    if output.exists() and not output.is_dir():
        report.add("error", "output", f"{output} is a file; choose another output")
        return
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    try:
        # Asking the system whether one may write does not tell of read-only disks.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        report.add("error", "output", f"cannot write to {output}: {error.strerror}; choose another output")
        return
    try:
        saved = to_resume(output, "auto")
    except NuebridgeError as error:
        report.add("error", "output", str(error))
        return
    if (output / "final").exists():
        report.add("warning", "output", f"{output} holds a finished run; choose another output to begin one")
    elif saved is not None:
        step = saved.progress.total_step
        try:
            check_changes(saved.configuration, config, saved.progress, saved.folder)
        except NuebridgeError as error:
            report.add("error", "output", str(error))
            return
        said = f"{output} holds a run at step {step} of {config.steps}; --resume auto goes on with it"
        report.add("warning", "output", said)
    else:
        report.add("ok", "output", f"{output}: can be written, and holds no run yet")


def _look_at_device(report: Report, config: TrainConfig) -> torch.device | None:
    try:
        check_device(config.device)
    except NuebridgeError as error:
        report.add("error", "device", f"device: {error}")
        return None
    device = torch.device(config.device)
    if device.type == "cuda":
        report.add("ok", "device", f"{config.device}: {torch.cuda.get_device_name(device)}")
    else:
        said = f"{config.device}: {torch.get_num_threads()} threads" if device.type == "cpu" else config.device
        report.add("ok", "device", said)
    return device


def _look_at_loggers(report: Report, config: TrainConfig) -> None:
    for name in config.loggers:
        try:
            check_loggers([name])
        except NuebridgeError as error:
            report.add("error", "loggers", str(error))
        else:
            report.add("ok", "loggers", f"{name}: installed")
