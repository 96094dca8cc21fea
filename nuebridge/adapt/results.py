"""What an adaptation ends with: errors on the new and on the original domain, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nuebridge.adapt.fillers import HOW_FOUND
from nuebridge.adapt.measuring import TestSet, Texts
from nuebridge.scoring import HOW_UNSAID, TextScores, score

TITLES = {"new": "new domain", "original": "original domain"}
NOT_MEASURED = "not measured"
SHOWN = 12
"""Words that a note lists; results.json has all."""
TOLERATED_RISE = 0.1
"""Relative rise of the original domain's error rates from which the results warn."""


@dataclass(frozen=True)
class Fillers:
    """Words and phrases that are counted where they are written and were not said."""

    given: tuple[str, ...]
    """Fillers that the user names."""
    found: tuple[str, ...]
    """Words of the new domain; see :mod:`nuebridge.adapt.fillers`."""


def results(
    sets: Sequence[TestSet], before: Texts, after: Texts, fillers: Fillers, *, adapter: str, base: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain data for JSON; ``original_domain`` is None where it was not measured."""
    domains: dict[str, Any] = {"new_domain": None, "original_domain": None}
    for one in sets:
        scores = [score(one.references, texts[one.domain]) for texts in (before, after)]
        domains[f"{one.domain}_domain"] = {
            "data": one.manifest.name,
            "utterances": len(one.utterances),
            "words": scores[0].words.reference_length,
            "before": _figures(scores[0], fillers),
            "after": _figures(scores[1], fillers),
        }
    return {
        "adapter": adapter,
        "base": dict(base),
        **domains,
        "fillers": list(fillers.given),
        "new_words": list(fillers.found),
        "how_counted": HOW_UNSAID,
        "how_new_words_are_found": HOW_FOUND,
        "warnings": list(_warnings(domains, adapter)),
    }


def _figures(scores: TextScores, fillers: Fillers) -> dict[str, Any]:
    figures = scores.as_dict()
    unsaid = {"fillers": scores.count_unsaid(fillers.given), "new_words": scores.count_unsaid(fillers.found)}
    return {
        **{key: figures[key] for key in ("wer", "cer", "substitutions", "deletions", "insertions")},
        **{key: {"count": found.total(), "which": dict(found.most_common())} for key, found in unsaid.items()},
        "inserted_words": figures["inserted_words"],
    }


def _warnings(domains: Mapping[str, Any], adapter: str) -> Iterator[str]:
    new, original = domains["new_domain"], domains["original_domain"]
    if not any(_rise(new, measure) < 0 for measure in ("wer", "cer")):
        yield "the new domain did not get better; try more steps, another --learning-rate or --parts, or more data"
    if original is None:
        return
    worse = [measure for measure in ("wer", "cer") if _rise(original, measure) > TOLERATED_RISE]
    if worse:
        measure = worse[0]
        was, now = (original[when][measure] for when in ("before", "after"))
        relative = f"{_rise(original, measure):+.0%} relative" if was else "from none"
        yield (
            f"the original domain got worse: {measure.upper()} {_rate(was)} before, {_rate(now)} after ({relative}). "
            "Try --replay with data of the original domain (or a larger --replay-share), a larger --kl, or less of the "
            f"adapter where it is used (--adapter-weight {adapter}=0.5)"
        )


def _rise(domain: Mapping[str, Any], measure: str) -> float:
    """Relative rise of an error rate; infinite from none to any, 0 where there is no rate."""
    was, now = (domain[when][measure] for when in ("before", "after"))
    if was is None or now is None or was == now:
        return 0.0
    return float((now - was) / was) if was else float("inf")


# --- as text ------------------------------------------------------------------------------------


def table(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of what, before and after; a row without figures is a heading."""
    rows = [("", "before", "after")]
    for domain, title in TITLES.items():
        one = found[f"{domain}_domain"]
        if one is None:
            rows.append((f"{title}: {NOT_MEASURED}", "", ""))
            continue
        rows.append((f"{title} ({one['utterances']} utterances, {one['words']} words, {one['data']})", "", ""))
        for label, key in (("WER", "wer"), ("CER", "cer")):
            rows.append((f"  {label}", _rate(one["before"][key]), _rate(one["after"][key])))
        for key in ("substitutions", "deletions", "insertions"):
            rows.append((f"  {key}", str(one["before"][key]), str(one["after"][key])))
        for label, key in (("fillers not said", "fillers"), ("new words not said", "new_words")):
            if found[key]:
                rows.append((f"  {label}", str(one["before"][key]["count"]), str(one["after"][key]["count"])))
    return rows


def notes(found: Mapping[str, Any], *, warnings: bool = True) -> list[str]:
    """Which words were counted and how, and the warnings unless these are left out."""
    lines = []
    if found["fillers"]:
        lines.append(f"Fillers not said ({_few(found['fillers'])}): {found['how_counted']}.")
    if found["new_words"]:
        same = "the same" if found["fillers"] else found["how_counted"]
        what, how = _few(found["new_words"]), found["how_new_words_are_found"]
        lines.append(f"New words not said ({what}): {same}, for {how}.")
    original = found["original_domain"]
    which = (
        {} if original is None else {**original["after"]["new_words"]["which"], **original["after"]["fillers"]["which"]}
    )
    if which:
        words = _few([f"{word} {count}" for word, count in sorted(which.items(), key=lambda item: -item[1])])
        lines.append(f"Written after and not said, on the original domain: {words}.")
    return [*lines, *(f"Warning: {warning}." for warning in found["warnings"] if warnings)]


def as_text(found: Mapping[str, Any]) -> str:
    """The table for a terminal; the warnings are left to whoever prints it."""
    rows = table(found)
    left = max(len(row[0]) for row in rows if row[1] or row[0].startswith("  "))
    width = max(len(cell) for row in rows for cell in row[1:])
    return "\n".join(
        f"{what.ljust(left)}  {before.rjust(width)}  {after.rjust(width)}".rstrip() for what, before, after in rows
    )


def as_markdown(found: Mapping[str, Any]) -> str:
    """The table and the notes as a page."""
    base = found["base"]
    lines = [
        f"# {found['adapter']}",
        "",
        f"An adapter of {base['model']} (weight hash {base['weight_hash'][:12]}).",
        "",
        "| | before | after |",
        "|---|---:|---:|",
    ]
    for what, before, after in table(found)[1:]:
        label = what.strip() if what.startswith("  ") else f"**{what}**"
        lines.append(f"| {label} | {before} | {after} |")
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes(found)) + "\n"


def _few(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}".replace("%", " %")
