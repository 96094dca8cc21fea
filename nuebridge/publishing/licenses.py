"""Whether parts under these licenses may be shared as one model: a small table, read conservatively.

The table is in ``licenses.yaml`` beside this file. Whatever is not in it is unknown, and unknown is said. This is no
legal advice, and cards that use it say so too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from nuebridge.config import load_yaml
from nuebridge.settings import Settings


class LicenseTable(Settings):
    """What ``licenses.yaml`` beside this file says: identifiers by what they allow."""

    permissive: frozenset[str]
    own_terms: dict[str, str]
    share_alike: frozenset[str]
    non_commercial: frozenset[str]
    no_derivatives: frozenset[str]

    @property
    def known(self) -> frozenset[str]:
        """All that it says something of."""
        others = self.share_alike | self.non_commercial | self.no_derivatives
        return self.permissive | others | frozenset(self.own_terms)


@lru_cache(maxsize=1)
def license_table() -> LicenseTable:
    """The table that comes with nuebridge."""
    return load_yaml(Path(__file__).with_name("licenses.yaml"), LicenseTable)


@dataclass(frozen=True)
class Judgement:
    """What the table says of parts together."""

    combined: Literal["yes", "conditions", "no", "unknown"]
    license: str | None
    """The identifier that the whole could carry; None where no single one is known to do."""
    reasons: tuple[str, ...]
    """Sentences, the most restricting first."""


def judge_licenses(licenses: Mapping[str, str | None]) -> Judgement:
    """Whether parts may be shared as one, given the license of each by its name; None stands for an unknown one.

    Parts that a publisher made alone, such as a bridge, are not to be given. Rules, the first that applies:
    a part without permission for derivatives: no; an unknown license: unknown; two licenses that each want to govern
    the whole (share-alike, non-commercial, a publisher's own terms): unknown; one such: on its conditions; else yes.
    """
    table = license_table()
    by_license: dict[str | None, list[str]] = {}
    for part, name in licenses.items():
        by_license.setdefault(None if name is None else name.lower(), []).append(part)
    fixed = [name for name in by_license if name in table.no_derivatives]
    unknown = [name for name in by_license if name is None or name not in table.known]
    governing = [name for name in by_license if name in table.known and name not in table.permissive]
    reasons = [f"{_of(by_license[name])}: {name} does not allow sharing a changed or combined work" for name in fixed]
    for name in unknown:
        what = "its license is not known" if name is None else f"{name} is not a license that this table knows"
        reasons.append(f"{_of(by_license[name])}: {what}; read its terms before sharing")
    reasons += [f"{_of(by_license[name])}: {_condition(name, table)}" for name in governing if name not in fixed]
    free = [name for name in by_license if name in table.permissive]
    reasons += [f"{_of(by_license[name])}: {name} allows it, with its notice kept" for name in free]
    told = tuple(reasons)
    if fixed:
        return Judgement("no", None, told)
    if unknown:
        return Judgement("unknown", None, told)
    if len(governing) > 1:
        clash = f"{' and '.join(governing)} each set terms for the whole; whether they agree is not decided here"
        return Judgement("unknown", None, (clash, *told))
    if governing:
        return Judgement("conditions", governing[0], told)
    return Judgement("yes", free[0] if len(free) == 1 and free[0] is not None else None, told)


def _condition(name: str | None, table: LicenseTable) -> str:
    if name in table.own_terms:
        return table.own_terms[name]
    if name in table.share_alike:
        return f"{name} asks that the whole be shared under the same license"
    alike = ", and asks that the whole be shared under the same license" if "-sa-" in str(name) else ""
    return f"{name} allows no commercial use, so neither does the whole{alike}"


def _of(parts: list[str]) -> str:
    return " and ".join(part.replace("_", " ") for part in parts)
