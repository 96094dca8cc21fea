"""The data of an adaptation: what is trained on, what the best checkpoint is chosen by, what is measured on."""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nuebridge.adapt.output import DATA, has_progress
from nuebridge.adapt.settings import SHARED_KINDS, AdaptSettings
from nuebridge.data import Utterance, read_manifest
from nuebridge.data.checking import KINDS, Finding, check
from nuebridge.data.paths import PathsFrom
from nuebridge.data.sources import Source, SourceConfig, kind_of, open_source
from nuebridge.data.splitting import Size, split
from nuebridge.data.writing import to_line, write_manifests
from nuebridge.errors import ConfigError, DataError
from nuebridge.train.selection import measured

log = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST, REPLAY = "train.jsonl", "validation.jsonl", "test.jsonl", "replay.jsonl"

SHARES = (0.1, 0.2, 0.3)
"""How much of the new data each held-out part takes, and of the replay that which is validated on: the first that comes
out, since there may be few speakers."""
TOLERANCE = 0.9
"""How far off the share a part may be, relatively; 1 would be none at all."""
SHOWN = 5
"""Findings that a message lists."""
UNREADABLE = ("missing-audio", "unreadable-audio")
"""What of the test data's recordings is an error."""


@dataclass(frozen=True)
class AdaptData:
    """Where the data lies, and what must be known of it."""

    train: Path
    validation: Path
    test: Path
    original_test: Path | None
    replay: str | None
    """What is trained on of the original domain."""
    train_utterances: list[Utterance]
    replay_utterances: list[Utterance]

    @property
    def seconds(self) -> float:
        """Of the new audio that is trained on."""
        return sum(one.duration or 0.0 for one in self.train_utterances)

    @property
    def replay_seconds(self) -> float:
        """Of the old audio that there is."""
        return sum(one.duration or 0.0 for one in self.replay_utterances)


def prepare(settings: AdaptSettings, *, is_main: bool) -> AdaptData:
    """Reads the data and holds parts of it out; every process comes to the same.

    The main one writes the parts into the output folder and looks for faults. Raises DataError, ConfigError.
    """
    for path in (settings.data, settings.validation, settings.test, settings.original_test):
        if path is not None:
            _check_manifest(path)
    if settings.replay is not None and kind_of(settings.replay) == "manifest":
        _check_manifest(Path(settings.replay))
    with _parts(settings, is_main=is_main) as parts:

        def read(name: str, otherwise: str) -> list[Utterance]:
            source = open_source(SourceConfig(path=str(parts / name) if name in _names(parts) else otherwise))
            assert isinstance(source, Source)  # only streaming gives anything else
            return [_measured(one) for one in source.utterances]

        names = _names(parts)
        utterances = read(TRAIN, str(settings.data))
        replay = [] if settings.replay is None else read(REPLAY, settings.replay)
    folder = settings.output / DATA
    data = AdaptData(
        folder / TRAIN if TRAIN in names else settings.data,
        settings.validation or folder / VALIDATION,
        settings.test or folder / TEST,
        settings.original_test,
        str(folder / REPLAY) if REPLAY in names else settings.replay,
        utterances,
        replay,
    )
    if data.replay_utterances and not (data.seconds and data.replay_seconds):
        raise ConfigError("the durations of the new data or of the replay are not known; write them into the manifests")
    if is_main:
        _check_overlaps(settings, data)
    return data


# --- holding out ----------------------------------------------------------------------------------


@contextmanager
def _parts(settings: AdaptSettings, *, is_main: bool) -> Iterator[Path]:
    """A folder with the parts; of other processes than the main one it is theirs, and for the block only."""
    folder = settings.output / DATA
    if not is_main:
        with tempfile.TemporaryDirectory() as own:
            _hold_out(settings, Path(own) / DATA, quietly=True)
            yield Path(own) / DATA
        return
    if not folder.exists():
        _hold_out(settings, folder)
        yield folder
        return
    fresh = folder.with_name(f".{DATA}.new")  # beside it, so that relative paths read the same
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _hold_out(settings, fresh, quietly=has_progress(settings))
        if not _equal(fresh, folder):
            if has_progress(settings):
                raise DataError(
                    f"the run in {settings.output} was trained on other data than is given now; put data, replay, "
                    "--seed and --group-by back as they were, or choose another output"
                )
            shutil.rmtree(folder)
            if fresh.exists():
                fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    yield folder


def _hold_out(settings: AdaptSettings, folder: Path, *, quietly: bool = False) -> None:
    """Writes the parts of what is not given whole into a new folder; none where all is."""
    given = {VALIDATION: settings.validation, TEST: settings.test}
    wanted = [name for name, path in given.items() if path is None]
    if not wanted:
        return
    try:
        parts = _split(settings, settings.data, wanted)
    except DataError as error:
        names = [name.removesuffix(".jsonl") for name in wanted]
        raise DataError(
            f"{settings.data}: nothing can be held out for {' and '.join(names)}: {error}. Or give "
            f"{' and '.join(f'--{name}' for name in names)}, manifests of your own"
        ) from error
    if VALIDATION in wanted and settings.replay is not None:
        old = _replay_parts(settings, quietly=quietly)
        if old is not None:
            # In the same shares as in training, so that the best checkpoint is the best for both domains.
            most = round(len(parts[VALIDATION]) * settings.replay_share / (1 - settings.replay_share))
            parts[REPLAY] = old[TRAIN]
            parts[VALIDATION] += [replace(one, id=f"replay/{one.id}") for one in old[VALIDATION][: max(1, most)]]
            # The first so many are validated on.
            random.Random(settings.seed).shuffle(parts[VALIDATION])
    paths = PathsFrom(folder)
    write_manifests(folder, {name: [to_line(one, paths) for one in those] for name, those in parts.items()})


def _replay_parts(settings: AdaptSettings, *, quietly: bool) -> dict[str, list[Utterance]] | None:
    """The replay for training and for validation; None where nothing of it can be held out, which is said."""
    assert settings.replay is not None
    why = "it is no manifest"
    if kind_of(settings.replay) == "manifest":
        try:
            return _split(settings, Path(settings.replay), [VALIDATION])
        except DataError as error:
            why = str(error)
    if not quietly:
        log.warning(
            "nothing of %s is held out, so that the best checkpoint is chosen by the new domain alone (%s)",
            *(settings.replay, why),
        )
    return None


def _split(settings: AdaptSettings, manifest: Path, wanted: Sequence[str]) -> dict[str, list[Utterance]]:
    """The utterances of the parts of a manifest. Raises DataError."""
    utterances = {one.id: one for one in read_manifest(manifest, need_text=True)}
    known = all(one.duration is not None for one in utterances.values())
    for share in SHARES:
        sizes = {name.removesuffix(".jsonl"): Size(share, "share") for name in wanted}
        with tempfile.TemporaryDirectory() as beside:
            folder = Path(beside) / DATA
            try:
                split(
                    manifest,
                    folder,
                    {"train": Size.parse("rest"), **sizes},
                    seed=settings.seed,
                    by="seconds" if known else "utterances",
                    group_by=settings.group_by,
                    tolerance=TOLERANCE,
                )
            except DataError:
                if share == SHARES[-1]:
                    raise
                continue
            # The parts name them; paths that lead out of a folder for the moment are left there.
            return {path.name: [utterances[one.id] for one in read_manifest(path)] for path in folder.iterdir()}
    raise AssertionError("the last share has raised or returned")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _equal(one: Path, other: Path) -> bool:
    names = _names(one)
    return names == _names(other) and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


# --- what is wrong --------------------------------------------------------------------------------


def _check_manifest(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"there is no manifest {path}; give the path of a JSON Lines file")
    if kind_of(str(path)) != "manifest":
        raise DataError(f"{path} is no manifest; make one with `nuebridge data import`")


def _measured(utterance: Utterance) -> Utterance:
    """With a duration; one that cannot be read has none, and will be named when it is trained on."""
    return utterance if utterance.duration is not None else measured(utterance) or utterance


def _check_overlaps(settings: AdaptSettings, data: AdaptData) -> None:
    """Raises DataError for what test data shares with training data, and for test recordings that cannot be read."""
    own = [data.train]
    if data.replay is not None and kind_of(data.replay) == "manifest":
        own.append(Path(data.replay))
    held_out = [path for path in (data.validation, data.test) if path.parent == settings.output / DATA]
    tests = [
        path for path in (data.validation, data.test, data.original_test) if path is not None and path not in held_out
    ]
    faults: list[Finding] = []
    for against, only_warn in ((tests, settings.only_warn), (held_out, SHARED_KINDS)):
        if not against:
            continue
        findings = check(own, against=against).findings
        faults += [one for kind in UNREADABLE for one in findings.get(kind, ()) if one.manifest in against]
        for kind in (*SHARED_KINDS, "overlap-speaker"):
            found = findings.get(kind, ())
            if found and kind in SHARED_KINDS and kind not in only_warn:
                faults += found
            elif found:
                where = ", ".join(map(str, against))
                log.warning("%d utterances of the training data have %s (%s)", len(found), KINDS[kind][1], where)
    if faults:
        kinds = sorted({one.kind for one in faults})
        shown = "".join(f"\n  {one.manifest} ({one.utterance}): {one.message}" for one in faults[:SHOWN])
        more = f"\n  (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        shared = [kind for kind in kinds if kind in SHARED_KINDS]
        advice = "mend the manifests"
        if shared:
            advice = "what is measured on must not be trained on: leave it out of one of them"
            advice += ", or pass " + " ".join(f"--only-warn {kind}" for kind in shared)
        raise DataError(f"the test data cannot be used ({', '.join(kinds)}); {advice}{shown}{more}")
