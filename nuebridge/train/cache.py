"""The frames of a frozen encoder, computed once and kept on disk.

FOLDER/ENCODER/frames-0.bin     features of many utterances, one after another
               frames-0.jsonl   where each is: {"key", "start" (bytes), "frames"}; written after its features

A folder may be shared by runs with the same encoder: ``ENCODER`` tells encoders (weights, options, dtype
of computing) apart, and a key tells recordings apart by file, time of change, stretch and sample rate;
those in shards and data sets by name and stretch alone.
Every process appends to a pair of files of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Self

import numpy as np
import torch
from torch import Tensor, nn

from nuebridge.contracts import SpeechEncoder, describe_part
from nuebridge.data import Utterance
from nuebridge.errors import AudioError, TrainingError
from nuebridge.tensors import weight_hash

log = logging.getLogger(__name__)

ITEM_BYTES = 4
"""Frames are kept in float32, as they come: the losses are the same."""


class FrameCache:
    """Frames by utterance. Raises TrainingError where the folder cannot be used."""

    def __init__(self, folder: Path, encoder: SpeechEncoder, precision: str = "float32") -> None:
        self._encoder = encoder
        self._width = encoder.hidden_size
        self.folder = folder / _name(encoder, precision)
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._maps: dict[Path, np.memmap] = {}
        self._writer: _Writer | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"cannot make the cache {self.folder} ({error.strerror}); set cache.folder to one that can be written"
            ) from error
        self.reload()

    def __contains__(self, utterance: Utterance) -> bool:
        return self._key(utterance) in self._places

    def read(self, utterance: Utterance) -> Tensor:
        """The frames ``[F, E]`` of an utterance. Raises AudioError where they are not in the cache."""
        place = self._places.get(self._key(utterance))
        if place is None:
            raise AudioError(f"{utterance.audio_filepath} could not be read when the frames were computed")
        file, start, frames = place
        if file not in self._maps:
            whole = file.stat().st_size // ITEM_BYTES  # the last write may have been cut short
            self._maps[file] = np.memmap(file, np.float32, mode="r", shape=(whole,))
        begin = start // ITEM_BYTES
        flat = self._maps[file][begin : begin + frames * self._width]
        return torch.from_numpy(np.array(flat)).view(frames, self._width)

    def write(self, utterance: Utterance, features: Tensor) -> None:
        """Keeps the frames ``[F, E]`` of an utterance. Raises TrainingError where the disk is full."""
        if self._writer is None:
            self._writer = _Writer(self.folder, self._width * ITEM_BYTES)
        try:
            place = self._writer.append(self._key(utterance), features)
        except OSError as error:
            raise TrainingError(
                f"cannot write to the cache {self.folder} ({error.strerror}); make room, or set cache_frozen to false"
            ) from error
        self._places[self._key(utterance)] = place

    def close(self) -> None:
        """Puts what was written on the disk."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def reload(self) -> None:
        """Takes in what other processes have written."""
        self._maps.clear()
        for index in sorted(self.folder.glob("frames-*.jsonl")):
            data = index.with_suffix(".bin")
            size = data.stat().st_size if data.is_file() else 0
            for key, start, frames in _index(index):
                if start + frames * self._width * ITEM_BYTES <= size:  # else it never reached the disk
                    self._places[key] = (data, start, frames)

    def missing(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Those whose frames are still to be computed."""
        return [utterance for utterance in utterances if utterance not in self]

    def bytes_needed(self, utterances: Sequence[Utterance]) -> int:
        """How much the frames of utterances take, exactly where their durations are."""
        samples = [round((utterance.duration or 0.0) * self._encoder.sample_rate) for utterance in utterances]
        lengths = self._encoder.output_lengths(torch.tensor(samples, dtype=torch.int64)).clamp(min=0)
        return int(lengths.sum()) * self._width * ITEM_BYTES

    def check_room(self, utterances: Sequence[Utterance], max_gigabytes: float) -> str:
        """What the cache will take, in words. Raises TrainingError where that is more than allowed or than there is."""
        total = self.bytes_needed(utterances) / 1e9
        new = self.bytes_needed(self.missing(utterances)) / 1e9
        free = shutil.disk_usage(self.folder).free / 1e9
        if total > max_gigabytes:
            raise TrainingError(
                f"the frames of {len(utterances)} utterances would take {total:.3g} GB, and cache.max_gigabytes is "
                f"{max_gigabytes:g}; raise it, or set cache_frozen to false"
            )
        if new > free:
            raise TrainingError(
                f"the frames still to be computed take {new:.3g} GB, and {self.folder} has {free:.3g} GB left; make "
                "room, set cache.folder to another disk, or set cache_frozen to false"
            )
        return f"the frames of the frozen encoder take {total:.3g} GB in {self.folder} ({new:.3g} GB still to compute)"

    def _key(self, utterance: Utterance) -> str:
        file: list[str | int] = [str(utterance.audio_filepath)]
        if utterance.stored is None:
            try:
                status = utterance.audio_filepath.stat()
                file = [str(utterance.audio_filepath.resolve()), status.st_size, status.st_mtime_ns]
            except OSError:
                pass  # it is named when it is read
        what = json.dumps([*file, utterance.offset, utterance.duration, self._encoder.sample_rate])
        return hashlib.sha256(what.encode()).hexdigest()[:32]


def fill(
    cache: FrameCache, encoder: SpeechEncoder, utterances: Sequence[Utterance], batch_seconds: float, precision: str
) -> Iterator[int]:
    """Computes and keeps the frames of utterances that the cache lacks; yields how many are done after each batch.

    An utterance that cannot be read is named in the log and left out, to be counted when its turn comes. Raises
    TrainingError where the disk is full.
    """
    encoder.eval()
    done = 0
    for planned in _batches(cache.missing(utterances), batch_seconds):
        done += len(planned)
        batch, waveforms = _load(planned, encoder.sample_rate)
        if not batch:
            continue
        lengths = torch.tensor([len(waveform) for waveform in waveforms], device=encoder.device)
        padded = nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(encoder.device)
        half = precision == "bfloat16"
        with torch.no_grad(), torch.autocast(encoder.device.type, torch.bfloat16) if half else nullcontext():
            frames = encoder(padded, lengths)
        features = frames.features.float().cpu()
        for row, utterance in enumerate(batch):
            cache.write(utterance, features[row, : int(frames.lengths[row])])
        yield done


def _batches(utterances: Sequence[Utterance], batch_seconds: float) -> Iterator[list[Utterance]]:
    batch: list[Utterance] = []
    for utterance in sorted(utterances, key=lambda u: u.duration or 0.0):
        if batch and (len(batch) + 1) * (utterance.duration or 0.0) > batch_seconds:
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch


def _load(utterances: Sequence[Utterance], sample_rate: int) -> tuple[list[Utterance], list[Tensor]]:
    """Those that can be read, and their waveforms."""
    read, waveforms = [], []
    for utterance in utterances:
        try:
            waveform = torch.from_numpy(utterance.load(sample_rate))
        except AudioError as error:
            log.warning("utterance %s cannot be read and is left out: %s", utterance.id, error)
            continue
        read.append(utterance)
        waveforms.append(waveform)
    return read, waveforms


def _name(encoder: SpeechEncoder, precision: str) -> str:
    """Tells encoders apart: what they hold, how they were built, and how they compute."""
    options = json.dumps(describe_part(encoder), sort_keys=True)
    said = f"{type(encoder).__name__}:{weight_hash({'part': encoder})}:{options}:{precision}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _index(file: Path) -> Iterator[tuple[str, int, int]]:
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):  # the last may be cut short, where its writer was killed
            entry = json.loads(line)
            yield entry["key"], entry["start"], entry["frames"]


class _Writer:
    """A pair of files that this process alone appends to."""

    def __init__(self, folder: Path, frame_bytes: int) -> None:
        number = 0
        while (index := self._taken(folder / f"frames-{number}.jsonl", frame_bytes)) is None:
            number += 1
        self._index: IO[str] = index
        self._cut_torn_line()
        self._path = folder / f"frames-{number}.bin"
        self._data: IO[bytes] = self._path.open("ab")
        self._start = self._path.stat().st_size
        spare = self._start % ITEM_BYTES  # of a write that was cut short
        if spare:
            self._start -= spare
            self._data.truncate(self._start)

    def append(self, key: str, features: Tensor) -> tuple[Path, int, int]:
        data = features.contiguous().numpy().tobytes()
        self._data.write(data)
        self._data.flush()
        place = (self._path, self._start, len(features))
        self._index.write(json.dumps({"key": key, "start": self._start, "frames": len(features)}) + "\n")
        self._index.flush()
        self._start += len(data)
        return place

    def close(self) -> None:
        for stream in (self._data, self._index):
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()

    @staticmethod
    def _taken(file: Path, frame_bytes: int) -> IO[str] | None:
        """The index, locked; None where another process writes, or where frames that it names were lost."""
        index = file.open("a+", encoding="utf-8")
        try:
            fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            index.close()
            return None
        data = file.with_suffix(".bin")
        size = data.stat().st_size if data.is_file() else 0
        if any(start + frames * frame_bytes > size for _, start, frames in _index(file)):
            index.close()  # what is appended there would pass for what was lost
            return None
        return index

    def _cut_torn_line(self) -> None:
        self._index.seek(0)
        text = self._index.read()
        if text and not text.endswith("\n"):
            self._index.truncate(len(text[: text.rfind("\n") + 1].encode()))
        self._index.seek(0, os.SEEK_END)
