"""What a stage is fed with: batches of audio, changed as the configuration says, or frames that were kept."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Generator

import numpy as np
import torch

from nuebridge.audio import Waveform
from nuebridge.data import Utterance
from nuebridge.data.augmentation import Augmenter
from nuebridge.errors import TrainingError
from nuebridge.model import Integration
from nuebridge.train.batches import Batch, Position, stream
from nuebridge.train.cache import FrameCache, fill
from nuebridge.train.config import TrainConfig
from nuebridge.train.positions import PositionCounter
from nuebridge.train.ranks import Ranks
from nuebridge.train.selection import Selection

log = logging.getLogger(__name__)

REPORT_SECONDS = 30.0
"""How often the log says how far the frames are."""


def keep_frames(
    integration: Integration, selection: Selection, config: TrainConfig, ranks: Ranks, device: torch.device
) -> FrameCache | None:
    """Computes the frames that ``cache_frozen`` asks for and that are not there yet, each rank its share.

    None where the configuration does not ask for it, or trains the encoder in this stage. Raises
    TrainingError for a cache that would be too large.
    """
    if not config.cache_frozen or config.parts.encoder.is_trained:
        return None
    if selection.streams:
        raise TrainingError("cache_frozen needs to know all utterances beforehand; set streaming to false")
    encoder, utterances = integration.encoder, selection.utterances
    home = encoder.device
    with FrameCache(config.cache.folder or config.output / "cache", encoder, config.precision) as cache:
        said = cache.check_room(utterances, config.cache.max_gigabytes)
        if ranks.is_main:
            log.info("%s", said)
        ranks.wait()  # what is missing is the same for all
        missing = ranks.share(cache.missing(utterances))
        reported = time.monotonic()
        encoder.to(device)
        for done in fill(cache, encoder, missing, config.data.batch_seconds, config.precision):
            if ranks.is_main and time.monotonic() - reported > REPORT_SECONDS:
                log.info("frames of %d of %d utterances are computed", done * ranks.count, len(missing) * ranks.count)
                reported = time.monotonic()
        encoder.to(home)
    ranks.wait()
    cache.reload()
    return cache


def feed(
    selection: Selection,
    config: TrainConfig,
    integration: Integration,
    position: Position,
    ranks: Ranks,
    cache: FrameCache | None,
) -> Generator[Batch]:
    """Endless batches from a position on; see :func:`nuebridge.train.batches.stream`."""
    augmentation, rate = config.data.augmentation, integration.sample_rate
    augmenter = Augmenter(augmentation, rate) if augmentation.is_on else None

    def augment(waveform: Waveform, utterance: Utterance, epoch: int) -> Waveform:
        # What is drawn depends on seed, epoch and utterance, not on batch or rank.
        assert augmenter is not None
        return augmenter(waveform, np.random.default_rng([config.seed, epoch, zlib.crc32(utterance.id.encode())]))

    return stream(
        selection,
        config.data,
        config.seed,
        rate,
        position,
        ranks,
        positions=PositionCounter(integration),
        augment=None if augmenter is None else augment,
        stretch=augmentation.longest_factor,
        cached=None if cache is None else cache.read,
    )
