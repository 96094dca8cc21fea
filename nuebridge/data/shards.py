"""Tar shards in WebDataset's convention: members that share a name up to its first dot are one utterance.

``clip-1.flac`` and ``clip-1.json`` (fields as in a manifest), or ``clip-1.txt`` or ``clip-1.cls`` (the
text alone). A shard is indexed once, in memory; after that any recording in it is read directly.
"""

from __future__ import annotations

import glob
import io
import json
import logging
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from nuebridge.data.columns import find_columns
from nuebridge.data.manifest import Utterance, make_utterance, raise_faults
from nuebridge.errors import AudioError, DataError

log = logging.getLogger(__name__)

AUDIO_MEMBERS = frozenset("wav flac mp3 ogg oga opus m4a mp4 aac webm mkv w64 aif aiff au caf amr wma wv".split())
"""Last part of the name of a member that is a recording."""

TEXT_MEMBERS = ("txt", "cls")
"""Members that are the text itself; the first of them counts."""

COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7z": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
"""First bytes of a compressed file and the program that undoes it."""

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*)\}")


def read_shards(pattern: str, columns: Mapping[str, str], *, need_text: bool = False) -> list[Utterance]:
    """The utterances of all shards, in the order of shards and members.

    ``pattern`` may hold braces (``{000..099}``, ``{a,b}``) and wildcards. ``columns`` maps fields of
    ours to fields of the JSON members, or to the endings of other members. Raises DataError naming
    the shards that cannot be read and the faulty utterances (the first ten).
    """
    utterances: list[Utterance] = []
    faults: list[str] = []
    shards = find_shards(pattern)
    unused = {theirs for ours, theirs in columns.items() if ours != "audio"}
    for shard in shards:
        for key, members in _index(shard, set(columns.values())).items():
            if not members.is_of_use:
                continue
            try:
                contents = members.contents()
                unused.difference_update(contents)
                utterances.append(_utterance(shard, key, members.audio, _record(contents, columns), columns, need_text))
            except ValueError as error:
                faults.append(f"{shard}: {key}: {error}")
    if unused and not faults:
        raise DataError(f"{pattern}: no utterance has {', '.join(sorted(unused))}; change columns")
    raise_faults(faults)
    if not utterances:
        raise DataError(f"{pattern} holds no recordings ({', '.join(sorted(AUDIO_MEMBERS))})")
    log.info("%s: %d utterances in %d shards", pattern, len(utterances), len(shards))
    return utterances


def find_shards(pattern: str) -> list[Path]:
    """The files that a pattern names, each once. Raises DataError where one is missing or nothing matches."""
    paths: dict[Path, None] = {}
    for name in expand_braces(pattern):
        matches = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not matches:
            raise DataError(f"no file matches {name}; a pattern in braces or with * must name shards that exist")
        paths.update(dict.fromkeys(map(Path, matches)))
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = f", nor {len(missing) - 1} others of {pattern}" if len(missing) > 1 else ""
        raise DataError(f"there is no shard {missing[0]}{others}")
    return list(paths)


def expand_braces(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` and ``{a,b}.tar`` written out; the width of a range's numbers is that of its first.

    Raises DataError for a range that runs backwards.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    inside = match[1]
    numbers = _RANGE.fullmatch(inside)
    if numbers is not None:
        first, last = int(numbers[1]), int(numbers[2])
        if last < first:
            raise DataError(f"{pattern}: the range {{{inside}}} runs backwards")
        choices = [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    elif "," in inside:
        choices = inside.split(",")
    else:  # braces that belong to the name
        return [pattern[: match.end()] + rest for rest in expand_braces(pattern[match.end() :])]
    rest = expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + choice + end for choice in choices for end in rest]


@dataclass(frozen=True)
class TarMember:
    """A recording within a tar file."""

    shard: Path
    start: int
    """Bytes from the start of the shard."""
    size: int

    def open(self) -> BinaryIO:
        """The recording in memory. Raises AudioError."""
        try:
            with open(self.shard, "rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
        except OSError as error:
            raise AudioError(f"{self.shard}: cannot be read ({error.strerror})") from None
        if len(data) < self.size:
            raise AudioError(f"{self.shard}: has become shorter since it was indexed")
        return io.BytesIO(data)


@dataclass
class _Members:
    """What a shard holds of one utterance."""

    audio: list[tuple[str, TarMember]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    """Contents of the other members that are of use, by their endings."""

    @property
    def is_of_use(self) -> bool:
        return bool(self.audio or self.texts)

    def contents(self) -> dict[str, Any]:
        """The fields of the JSON member, and the other members as text. Raises ValueError."""
        found: dict[str, Any] = {}
        for ending, content in self.texts.items():
            text = content.decode("utf-8-sig")
            if ending != "json":
                found.setdefault(ending, text.strip())
                continue
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise ValueError("its json must be an object")
            found.update(fields)
        return found


def _index(shard: Path, wanted: set[str]) -> dict[str, _Members]:
    """What a shard holds, by utterance. Raises DataError."""
    utterances: dict[str, _Members] = {}
    try:
        with open(shard, "rb") as file:
            start = file.read(4)
            program = next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)
            if program is not None:
                raise DataError(
                    f"{shard} is compressed: a recording in it could be read only by unpacking all before it; "
                    f"unpack it first ({program}); audio in flac, mp3 or ogg is compressed already"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    _add(utterances, archive, member, shard, wanted)
                end = archive.offset
            if file.seek(0, io.SEEK_END) <= end:
                log.warning("%s has no end mark: it may have been cut off between two members", shard)
    except tarfile.TarError as error:
        raise DataError(f"{shard} is not a whole tar file ({error}); make or download it again") from None
    except OSError as error:
        raise DataError(f"the shard {shard} cannot be read ({error.strerror or error})") from None
    return utterances


def _add(
    utterances: dict[str, _Members], archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path, wanted: set[str]
) -> None:
    path = PurePosixPath(member.name)
    stem, dot, ending = path.name.partition(".")
    if not member.isreg() or member.issparse() or not stem or not dot:  # folders, links, hidden files
        return
    kept = utterances.setdefault(str(path.with_name(stem)), _Members())
    if ending.rpartition(".")[2].lower() in AUDIO_MEMBERS:
        kept.audio.append((ending, TarMember(shard, member.offset_data, member.size)))
    elif ending in {"json", *TEXT_MEMBERS} | wanted:
        if ending in kept.texts:
            raise DataError(f"{shard} holds {member.name} twice")
        content = archive.extractfile(member)
        assert content is not None  # it is a regular file
        kept.texts[ending] = content.read()


def _utterance(
    shard: Path,
    key: str,
    audio: list[tuple[str, TarMember]],
    record: Mapping[str, Any],
    columns: Mapping[str, str],
    need_text: bool,
) -> Utterance:
    """Raises ValueError saying what is wrong."""
    if "audio" in columns:
        audio = [(ending, place) for ending, place in audio if ending == columns["audio"]]
    if not audio:
        raise ValueError("has no recording")
    if len(audio) > 1:
        raise ValueError(
            f"has {len(audio)} recordings ({', '.join(ending for ending, _ in audio)}): names end at their first dot; "
            "rename them, or choose one with columns: {audio: ENDING}"
        )
    ending, place = audio[0]
    return make_utterance(record, shard / f"{key}.{ending}", f"{shard.stem}/{key}", stored=place, need_text=need_text)


def _record(contents: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """What is kept of an utterance, ours by our names: as in a manifest, every field."""
    names = find_columns(columns, contents)
    names.pop("audio", None)
    record = {ours: contents[theirs] for ours, theirs in names.items() if theirs in contents}
    if "text" not in record:
        endings = [ending for ending in TEXT_MEMBERS if ending in contents]
        record.update({"text": contents[endings[0]]} if endings else {})
    taken = {"audio", "audio_filepath", *TEXT_MEMBERS, *names.values()}
    rest = {name: value for name, value in contents.items() if name not in taken and name not in record}
    return {name: value for name, value in {**rest, **record}.items() if value is not None}
