"""Whether parts under these licenses may be shared as one model: a small table, read conservatively.

Identifiers are those of the hub: SPDX in lower case, and names of its own for models' community licenses. Whatever is
not in the table is unknown, and unknown is said. This is no legal advice, and cards that use it say so too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PERMISSIVE = frozenset(
    "0bsd apache-2.0 bsd bsd-2-clause bsd-3-clause cc-by-3.0 cc-by-4.0 cc0-1.0 isc mit mit-0 unlicense zlib".split()
)
"""Allow everything, on condition at most that they and the authors are named."""
OWN_TERMS = {
    "gemma": "Google's Gemma terms of use, with its prohibited uses, go along with every copy and derivative",
    "llama2": "Meta's Llama 2 license, with its acceptable use policy, goes along with every copy and derivative",
    **{
        f"llama{version}": f"Meta's Llama {version} license goes along with every copy and derivative: name it, show "
        "'Built with Llama', and begin the name of the model with 'Llama'"
        for version in ("3", "3.1", "3.2", "3.3", "4")
    },
}
"""Licenses of one publisher, whose terms every derivative carries on; each with what it asks for."""
SHARE_ALIKE = frozenset("agpl-3.0 cc-by-sa-3.0 cc-by-sa-4.0 gpl-2.0 gpl-3.0 lgpl-3.0 mpl-2.0".split())
"""Derivatives are under the same license."""
NON_COMMERCIAL = frozenset("cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0".split())
"""What holds such a part is for non-commercial use as a whole."""
NO_DERIVATIVES = frozenset("cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0".split())
"""May be shared unchanged only."""


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
    by_license: dict[str | None, list[str]] = {}
    for part, name in licenses.items():
        by_license.setdefault(None if name is None else name.lower(), []).append(part)
    fixed = [name for name in by_license if name in NO_DERIVATIVES]
    unknown = [name for name in by_license if name is None or not _known(name)]
    governing = [name for name in by_license if name is not None and name not in PERMISSIVE and _known(name)]
    reasons = [f"{_of(by_license[name])}: {name} does not allow sharing a changed or combined work" for name in fixed]
    for name in unknown:
        what = "its license is not known" if name is None else f"{name} is not a license that this table knows"
        reasons.append(f"{_of(by_license[name])}: {what}; read its terms before sharing")
    reasons += [f"{_of(by_license[name])}: {_condition(name)}" for name in governing if name not in fixed]
    free = [name for name in by_license if name in PERMISSIVE]
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


def _known(name: str) -> bool:
    return name in PERMISSIVE | SHARE_ALIKE | NON_COMMERCIAL | NO_DERIVATIVES or name in OWN_TERMS


def _condition(name: str) -> str:
    if name in OWN_TERMS:
        return OWN_TERMS[name]
    if name in SHARE_ALIKE:
        return f"{name} asks that the whole be shared under the same license"
    alike = ", and asks that the whole be shared under the same license" if "-sa-" in name else ""
    return f"{name} allows no commercial use, so neither does the whole{alike}"


def _of(parts: list[str]) -> str:
    return " and ".join(part.replace("_", " ") for part in parts)
