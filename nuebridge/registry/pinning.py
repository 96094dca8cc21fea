"""Writing the revisions of hub sources into a registry file: the commits that the hub serves now.

A file keeps its comments, its order and the quotes it has. Entries of the packaged registry are pinned in a checkout,
or by a file of one's own that replaces them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from nuebridge.config import Document
from nuebridge.errors import RegistryError
from nuebridge.registry.entries import RegistryContents, is_local


@dataclass(frozen=True)
class Pinned:
    """One source of a registry file that had no revision."""

    key: str
    """Dotted: ``encoders.NAME``, ``integrations.NAME.weights``."""
    source: str
    revision: str | None
    """The commit that was written; None where the hub did not tell."""
    error: str | None = None
    """Why it did not."""


class _Representer(RoundTripRepresenter):
    """Writes null as null: ruamel's own writes nothing in its place."""


_Representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))


def hub_commit(source: str) -> str:
    """The commit that a hub repository's main branch is at. Raises RegistryError where the hub does not tell."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(source).sha
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors or ValueErrors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RegistryError(f"the hub tells no commit of {source}: {reason}") from error
    if commit is None:
        raise RegistryError(f"the hub tells no commit of {source}")
    return commit


def pin(file: Path, commit_of: Callable[[str], str] = hub_commit) -> list[Pinned]:
    """Fills in every revision that is null or missing beside a hub source, and says what became of each.

    ``commit_of`` is asked once a source. A source that it raises RegistryError for stays as it is, and the others are
    written. Raises ConfigError for a file that is no right registry file, RegistryError where it cannot be written.
    """
    Document.read(file).validate(RegistryContents)
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 10**6
    data = yaml.load(file.read_text(encoding="utf-8")) or {}
    commits: dict[str, Pinned] = {}
    found: list[Pinned] = []
    for key, entry in _unpinned(data):
        source = str(entry["source"])
        if source not in commits:
            try:
                commits[source] = Pinned(key, source, commit_of(source))
            except RegistryError as error:
                commits[source] = Pinned(key, source, None, str(error))
        one = commits[source]
        found.append(Pinned(key, source, one.revision, one.error))
        if one.revision is not None:
            if "revision" not in entry:
                entry.insert(list(entry).index("source") + 1, "revision", one.revision)
            entry["revision"] = one.revision
    if any(one.revision for one in found):
        stream = io.StringIO()
        yaml.dump(data, stream)
        _write(file, stream.getvalue())
    return found


def _unpinned(data: Any) -> Iterator[tuple[str, Any]]:
    for section in ("encoders", "decoders", "integrations"):
        for name, entry in (data.get(section) or {}).items():
            key, holder = f"{section}.{name}", entry
            if section == "integrations":
                key, holder = f"{key}.weights", entry.get("weights")
            if holder is not None and holder.get("revision") is None and not is_local(str(holder["source"])):
                yield key, holder


def _write(file: Path, text: str) -> None:
    """The file as a whole or as it was."""
    aside = file.with_name(f".{file.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.chmod(file.stat().st_mode & 0o777)
        os.replace(aside, file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RegistryError(f"cannot write {file}: {error.strerror}; it is as it was") from error
