"""nuebridge's own training, measured: engine, steps and batches of the training loop; nothing of the run is kept."""

from __future__ import annotations

from contextlib import closing

from nuebridge.bench.work import TrainingWork
from nuebridge.data import Utterance
from nuebridge.errors import DataError
from nuebridge.model import Integration
from nuebridge.train.batches import Batch, BatchLimits, Position, plan_epoch
from nuebridge.train.config import TrainConfig
from nuebridge.train.engine import Engine
from nuebridge.train.feeding import feed, keep_frames
from nuebridge.train.positions import PositionCounter
from nuebridge.train.ranks import ALONE
from nuebridge.train.selection import Pool, Selection
from nuebridge.train.step import Stepper


def train_ours(work: TrainingWork) -> None:
    """Does the work as ``nuebridge train`` does; with ``cache_frozen``, with frames that are there already.

    Raises what training raises, and DataError for audio that cannot be read.
    """
    config = work.stage.config
    selection = _selection(work.utterances)
    cache = None
    if config.cache_frozen:
        cache = keep_frames(work.integration, selection, config, ALONE, work.device)
    engine = Engine(work.integration, work.stage, ALONE)
    stepper = Stepper(engine, work.stage)
    number = 0
    # Two feeds: what is read ahead while warming up is not to be had for nothing.
    for position in (Position(0, 0), Position(1, 0)):
        measures = position.epoch > 0
        most = None if measures else work.warmup_steps
        if measures:
            work.meter.begin()
        with closing(feed(selection, config, work.integration, position, ALONE, cache)) as batches:
            for place, batch in enumerate(batches):
                if place == most or batch.epoch > work.passes:
                    break
                result = stepper.step(batch, number, lambda: False)
                if result.unreadable:
                    raise DataError(
                        f"the audio of {', '.join(batch.unreadable)} cannot be read, and what is measured must be the "
                        "same for all; leave it out of the data (`nuebridge data check` finds it)"
                    )
                work.meter.count(*_samples(batch))
                number += 1
                if measures and batch.next_position.epoch > work.passes:
                    break
    work.meter.end()


def keep_all_frames(work: TrainingWork) -> None:
    """Computes the frames that :func:`train_ours` then finds. Raises TrainingError, DataError."""
    keep_frames(work.integration, _selection(work.utterances), work.stage.config, ALONE, work.device)


def planned_batches(config: TrainConfig, integration: Integration, utterances: tuple[Utterance, ...]) -> int:
    """How many batches a pass over the utterances has."""
    counted = PositionCounter(integration) if config.data.batch_tokens is not None else None
    limits = BatchLimits(config.data.batch_seconds, config.data.batch_tokens, counted)
    return len(plan_epoch(utterances, limits, config.seed, 1))


def _selection(utterances: tuple[Utterance, ...]) -> Selection:
    return Selection((Pool(utterances, 1.0),))


def _samples(batch: Batch) -> tuple[int, int]:
    """Audio samples of a batch, and those computed on; where frames were kept, as if each were as long as its share."""
    samples = int(batch.lengths.sum())
    if batch.frames is None:
        return samples, batch.waveforms.numel()
    rows, longest = batch.frames.features.shape[:2]
    return samples, round(samples * rows * longest / max(1, int(batch.frames.lengths.sum())))
