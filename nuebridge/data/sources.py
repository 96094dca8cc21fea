"""Where utterances come from: manifests, tar shards, data sets. One of each is opened the same way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from nuebridge.config import suggestion
from nuebridge.data.columns import FIELDS
from nuebridge.data.manifest import Utterance, read_manifest
from nuebridge.data.shards import expand_braces, read_shards
from nuebridge.data.tables import TABLE_FILES, Table, TableStream, read_table
from nuebridge.errors import ConfigError, DataError
from nuebridge.settings import NameOrPath, Settings

Kind = Literal["manifest", "tar", "dataset"]

_TAR = re.compile(r"\.(tar|tgz|tbz2|txz)(\.\w+)?$")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class SourceConfig(Settings):
    """Where utterances come from. A path alone stands for a source of that path."""

    path: NameOrPath = Field(min_length=1)
    """A manifest, tar shards (``shards-{000..099}.tar``), a folder of Arrow or Parquet files, or a hub id."""
    kind: Kind | None = None
    """null: told from the path."""
    weight: float = Field(default=1.0, gt=0)
    """How often an epoch takes each utterance: 2 is twice; 0.5 is a half of them, drawn anew every epoch."""
    subset: str | None = None
    """Data sets on the hub: the name of the configuration."""
    split: str = "train"
    """Data sets: the split."""
    streaming: bool = False
    """Data sets: read on without downloading the whole; the order is then shuffled within windows only."""
    utterances: int | None = Field(default=None, ge=1)
    """Streaming beside other sources: about how many there are, to mix them evenly. null: what the data set says."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Data sets and shards: our field to theirs, such as ``{text: sentence}``."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": str(value)} if isinstance(value, str | Path) else value

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in FIELDS:
                raise ValueError(f"there is no field {name!r}{suggestion(name, FIELDS)}")
        return value


@dataclass
class Source:
    """Utterances that are known from the start, each readable at any time."""

    config: SourceConfig
    utterances: list[Utterance]


@dataclass(frozen=True)
class Stream:
    """Utterances that come one after another, from the start in every pass."""

    config: SourceConfig
    rows: TableStream
    prefix: str = ""
    """Before every id, where the ids of another source might be the same."""

    def __iter__(self) -> Iterator[Utterance | str]:
        """The utterances of one pass; of a faulty one, what is wrong with it. Raises DataError."""
        for found in self.rows:
            yield replace(found, id=self.prefix + found.id) if self.prefix and isinstance(found, Utterance) else found

    @property
    def expected(self) -> int | None:
        """About how many utterances a pass has; None where nobody says."""
        return self.config.utterances or self.rows.rows_promised


def kind_of(path: str) -> Kind:
    """What a path leads to, told from its name and from what is there."""
    first = expand_braces(path)[0]
    if _TAR.search(first):
        return "tar"
    if Path(first).is_dir() or Path(first).suffix in TABLE_FILES:
        return "dataset"
    if Path(first).exists() or Path(first).suffix in (".jsonl", ".json", ".ndjson"):
        return "manifest"
    return "dataset" if _HUB_ID.fullmatch(path) else "manifest"


def open_source(config: SourceConfig, *, need_text: bool = True) -> Source | Stream:
    """A source, read as far as it must be. Raises DataError and ConfigError saying what is wrong with it."""
    kind = config.kind or kind_of(config.path)
    if kind != "dataset":
        what = "a manifest" if kind == "manifest" else "tar shards"
        for name in ("streaming", "subset", "utterances"):
            if getattr(config, name):
                raise ConfigError(f"{name} is for data sets, and {config.path} is {what}; leave it out or set kind")
    if kind == "manifest":
        if config.columns:
            raise ConfigError(f"columns are for data sets and shards; the manifest {config.path} has fields of its own")
        return Source(config, read_manifest(Path(config.path), need_text=need_text))
    if kind == "tar":
        return Source(config, read_shards(config.path, config.columns, need_text=need_text))
    table = Table(config.path, config.subset, config.split, config.streaming, config.columns)
    if config.streaming:
        return Stream(config, TableStream(table, need_text=need_text))
    return Source(config, read_table(table, need_text=need_text))


def open_sources(configs: Sequence[SourceConfig]) -> list[Source | Stream]:
    """Several sources, all ids different: where one is taken already, the number of its source comes before it.

    Raises DataError listing what is wrong with any of them, and where streams cannot be mixed.
    """
    sources: list[Source | Stream] = []
    faults: list[str] = []
    for config in configs:
        try:
            sources.append(open_source(config))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    taken: set[str] = set()
    for number, source in enumerate(sources, 1):
        if isinstance(source, Source):
            source.utterances = _renamed(source.utterances, f"{number}/", taken)
        elif len(sources) > 1:
            if source.expected is None:
                raise DataError(
                    f"{source.config.path} is streamed and does not say how many utterances it has; to mix it with "
                    "other sources, say about how many: utterances: NUMBER"
                )
            sources[number - 1] = replace(source, prefix=f"{number}/")
    return sources


def read_some(config: SourceConfig, most: int | None) -> list[Utterance]:
    """The first utterances of a source; all for None. Raises DataError."""
    source = open_source(config)
    if isinstance(source, Source):
        return source.utterances[:most]
    found = list(islice((row for row in source if isinstance(row, Utterance)), most))
    if not found:
        raise DataError(f"{config.path} holds no utterances that can be used")
    return found


def _renamed(utterances: Sequence[Utterance], prefix: str, taken: set[str]) -> list[Utterance]:
    """Under ids that are in use nowhere; ``taken`` grows by them."""
    own = {utterance.id for utterance in utterances}
    renamed = []
    for utterance in utterances:
        name = utterance.id
        while name in taken or (name != utterance.id and name in own):
            name = prefix + name
        taken.add(name)
        renamed.append(utterance if name == utterance.id else replace(utterance, id=name))
    return renamed
