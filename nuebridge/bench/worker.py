"""One measurement, in a process of its own: ``python -m nuebridge.bench.worker JOB RESULT``, both JSON files.

A process of its own has memory of its own, and nothing that another measurement left behind.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from nuebridge.bench.meter import Meter
from nuebridge.bench.ours import keep_all_frames, train_ours
from nuebridge.bench.work import TrainingWork, utterances_of
from nuebridge.checkpoint import load
from nuebridge.compose import Workshop
from nuebridge.errors import NuebridgeError
from nuebridge.hookspecs import BenchBaseline
from nuebridge.plugins import PluginManager
from nuebridge.registry import Registry
from nuebridge.settings import Settings
from nuebridge.train.config import TrainConfig
from nuebridge.train.randomness import seed_all
from nuebridge.train.trainable import add_adapters, trainable_groups
from nuebridge.train.watching.hardware import describe


class Job(Settings):
    """What is to be measured."""

    does: Literal["train", "baseline", "keep frames"]
    config: TrainConfig
    baseline: str | None = None
    """Component id."""
    batch_size: int
    passes: int
    warmup_steps: int
    utterances: int | None = None
    threads: int | None = None
    registry_files: tuple[Path, ...] = ()


def measure(job: Job, workshop: Workshop) -> dict[str, Any]:
    """Does a job in this process. Raises NuebridgeError."""
    config = job.config
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    seed_all(config.seed, 0)
    device = torch.device(config.device)
    integration = load(config.model, device=device, manager=workshop.manager, registry=workshop.registry)
    work = TrainingWork(
        integration=integration,
        stage=next(config.unrolled()),
        utterances=utterances_of(config, integration, job.utterances),
        batch_size=job.batch_size,
        passes=job.passes,
        warmup_steps=job.warmup_steps,
        device=device,
        meter=Meter(device),
    )
    if job.does == "keep frames":
        keep_all_frames(work)
        return {}
    hashed = integration.weight_hash()
    seed_all(config.seed, 0)
    if job.does == "train":
        train_ours(work)
    else:
        assert job.baseline is not None
        workshop.manager.find(BenchBaseline, job.baseline).load()(work)
    return {
        **work.meter.figures,
        "audio_seconds": sum(utterance.duration or 0.0 for utterance in work.utterances) * job.passes,
        "sample_rate": integration.sample_rate,
        "weight_hash": hashed,
        "trained": count_trained(integration, config),
        "hardware": describe(device),
        "threads": torch.get_num_threads(),
        "notes": {"nuebridge": importlib.metadata.version("nuebridge"), **work.meter.notes},
    }


def count_trained(integration: Any, config: TrainConfig) -> dict[str, list[int]]:
    """By part, how many parameters are trained, and how many there are."""
    add_adapters(integration, config)
    trainable_groups(integration, config)
    return {
        name: [sum(p.numel() for p in part.parameters() if p.requires_grad), sum(p.numel() for p in part.parameters())]
        for name, part in integration.parts.items()
    }


def main(job_file: str, result_file: str) -> int:
    """Does the job of a file; what came of it, or what was wrong, goes into the other."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    job = Job.model_validate_json(Path(job_file).read_text(encoding="utf-8"))
    try:
        manager = PluginManager.discover()
        result = measure(job, Workshop(manager, Registry.load(manager, job.registry_files)))
    except NuebridgeError as error:
        Path(result_file).write_text(json.dumps({"error": str(error)}), encoding="utf-8")
        return error.exit_status
    Path(result_file).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
