"""``nuebridge data``: manifests made of other toolkits' files, checked, and split."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuebridge.cli._context import JsonFlag, columns, print_json, warn
from nuebridge.errors import ConfigError

if TYPE_CHECKING:
    from nuebridge.data.checking import Report

verbs = typer.Typer(
    help="Make manifests of other toolkits' files, check and split them.", no_args_is_help=True, rich_markup_mode=None
)

SHOWN = 5
"""Examples of a kind; --json has all."""


class Format(StrEnum):
    """What can be imported."""

    lhotse = "lhotse"
    kaldi = "kaldi"
    stm = "stm"
    table = "table"
    slam_llm = "slam-llm"
    nemo = "nemo"


class Depth(StrEnum):
    """How much of the recordings is read."""

    none = "none"
    headers = "headers"
    decode = "decode"


Workers = Annotated[
    int | None, typer.Option(min=1, help="Threads that read recordings [default: one a core, up to 8].")
]


@verbs.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="Lhotse cuts, a Kaldi data folder, STM, CSV, TSV, SLAM-LLM lines or a NeMo manifest.")
    ],
    output: Annotated[Path, typer.Option(help="Manifest to write; it must not exist.")],
    format: Annotated[Format | None, typer.Option(help="What SOURCE is, where that is not plain.")] = None,
    audio_root: Annotated[
        Path | None, typer.Option(help="Where relative paths of recordings begin [default: beside SOURCE].")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="Tables: the column of a field, such as text=sentence; repeatable."),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="Tables: between cells [default: a tab in .tsv, else a comma].")
    ] = None,
    header: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Tables: names of the columns, where no line has them.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Open every recording, to see how long it is."),
    ] = True,
    skip_faults: Annotated[bool, typer.Option("--skip-faults", help="Leave out what is faulty, and name it.")] = False,
    workers: Workers = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a manifest of the files of another toolkit.

    Faulty lines are an error that names them, and nothing is written. What has no place in a
    manifest is left out, counted and named.
    """
    from nuebridge.data.importing import ImportOptions, by_reason, import_data

    options = ImportOptions(
        audio_root=audio_root,
        columns=_pairs(column or []),
        delimiter=_one_character(delimiter),
        header=tuple(name.strip() for name in header.split(",")) if header else (),
        measure=measure,
        skip_faults=skip_faults,
        workers=workers or _workers(),
    )
    with _progress("measuring") as on_progress:
        done = import_data(
            source, output, format=None if format is None else format.value, options=options, on_progress=on_progress
        )
    reasons = by_reason(done.dropped)
    if as_json:
        print_json(
            {
                "format": done.format,
                "output": str(done.output),
                "utterances": done.utterances,
                "seconds": done.seconds,
                "dropped": reasons,
                "notes": list(done.notes),
            }
        )
        return
    for note in done.notes:
        warn(note)
    for reason, names in reasons.items():
        warn(_shown(f"dropped {len(names)}: {reason} ({_some(names)})"))
    length = "" if done.seconds is None else f", {_time(done.seconds)}"
    typer.echo(f"{done.output}: {done.utterances} utterances{length} ({done.format})")


@verbs.command()
def check(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests, looked at together.")],
    against: Annotated[
        list[Path] | None, typer.Option(metavar="TEST", help="Test data, which must share nothing; repeatable.")
    ] = None,
    audio: Annotated[Depth, typer.Option(help="How much of the recordings is read.")] = Depth.headers,
    only_warn: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Findings that are no faults here; repeatable.")
    ] = None,
    workers: Workers = None,
    as_json: JsonFlag = False,
) -> None:
    """Show statistics and faults of manifests, and what they share with test data.

    The exit status is 1 where there are faults.
    """
    from nuebridge.data.checking import check as look

    with _progress("reading recordings") as on_progress:
        report = look(
            manifests,
            against=against or (),
            depth=audio.value,
            only_warn=only_warn or (),
            workers=workers or _workers(),
            on_progress=on_progress,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        for line in [*_figures(report.statistics), *_findings(report)]:
            typer.echo(line)
    if report.faults:
        raise typer.Exit(1)


@verbs.command()
def split(
    manifest: Annotated[Path, typer.Argument(help="Manifest to split.")],
    output: Annotated[Path, typer.Option(help="Folder for train.jsonl, dev.jsonl and test.jsonl; new or empty.")],
    train: Annotated[
        str, typer.Option(metavar="SIZE", help="Share (0.8, 80%), utterances (500), time (90s, 2h) or rest.")
    ] = "rest",
    dev: Annotated[str | None, typer.Option(metavar="SIZE", help="The same; left out: no such part.")] = None,
    test: Annotated[str | None, typer.Option(metavar="SIZE", help="The same; left out: no such part.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    by_utterances: Annotated[
        bool, typer.Option("--by-utterances", help="Shares are of utterances, not of seconds.")
    ] = False,
    group_by: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Field that no two parts share; repeatable [default: speaker, recording]."),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="How far a part may be off its size, relatively.")] = 0.2,
    as_json: JsonFlag = False,
) -> None:
    """Split a manifest into parts that share no speaker and no recording."""
    from nuebridge.data.splitting import Size
    from nuebridge.data.splitting import split as divide

    asked = {"train": train, "dev": dev, "test": test}
    done = divide(
        manifest,
        output,
        {name: Size.parse(size) for name, size in asked.items() if size is not None},
        seed=seed,
        by="utterances" if by_utterances else None,
        group_by=group_by or ("speaker", "recording"),
        tolerance=tolerance,
    )
    if as_json:
        print_json(done.as_dict())
        return
    if done.without_speaker:
        warn(f"{done.without_speaker} utterances name no speaker; only their recordings keep them together")
    if done.left_out:
        warn(f"{done.left_out} utterances are in no part")
    rows = [
        (
            str(output / f"{part.name}.jsonl"),
            f"{part.utterances} utterances",
            "" if part.seconds is None else _time(part.seconds),
            f"{part.speakers} speakers",
            f"(asked for: {part.size})",
        )
        for part in done.parts
    ]
    for line in columns(rows, indent=""):
        typer.echo(line)


# --- what is shown ------------------------------------------------------------------------------------------------


def _figures(figures: Any) -> list[str]:
    """Statistics as lines."""
    texts, speakers, languages = figures["texts"], figures["speakers"], figures["languages"]
    rows = [
        ("utterances", f"{figures['utterances']} ({_time(figures['hours'] * 3600)})"),
        ("recordings", f"{figures['files']} files{_listed(figures['sample_rates'], ' Hz')}"),
        ("channels", ", ".join(figures["channels"]) or "not read"),
        ("durations", _quantiles(figures["durations"], " s")),
        ("speakers", f"{speakers['named']}, {speakers['utterances_without']} utterances without"),
        (
            "languages",
            ", ".join(f"{name} ({_time(one['hours'] * 3600)})" for name, one in languages.items()),
        ),
        ("texts", f"{texts['distinct']} different, {texts['empty']} empty, {texts['missing']} missing"),
        ("text lengths", _quantiles(texts["characters"], " characters")),
        ("words", _quantiles(texts["words"], "")),
        ("speech rate", _quantiles(figures["characters_per_second"], " characters/s")),
        ("characters", "".join(sorted(figures["characters"]))),
        ("most repeated", ", ".join(f"{_shown(text)} ({count})" for text, count in texts["repeated"])),
    ]
    if figures["without_duration"]:
        rows.insert(1, ("without duration", str(figures["without_duration"])))
    return columns([(name, _shown(value)) for name, value in rows if value], indent="")


def _findings(report: Report) -> list[str]:
    """Findings as lines, the worst kinds first."""
    from nuebridge.data.checking import KINDS

    lines = []
    for kind, found in sorted(report.findings.items(), key=lambda item: not report.is_fault(item[0])):
        word = "fault" if report.is_fault(kind) else "warning"
        lines.append(f"{word}: {kind} ({len(found)}): {KINDS[kind][1]}")
        lines += [_shown(f"  {one.manifest.name} ({one.utterance}): {one.message}") for one in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"  (and {len(found) - SHOWN} more)")
    return [*lines, f"{report.faults} faults" if report.faults else "no faults"]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def _quantiles(values: dict[str, float] | None, unit: str) -> str:
    if values is None:
        return ""
    low, least, middle, most, high = (f"{values[name]:.4g}" for name in ("min", "p5", "median", "p95", "max"))
    return f"{low} to {high}{unit}, median {middle}, 5% below {least}, 5% above {most}"


def _listed(counts: dict[str, int], unit: str) -> str:
    return "".join(f", {count} of {name}{unit}" for name, count in counts.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _shown(text: str) -> str:
    """A text from a data file as one line that cannot steer the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


# --- what is given ------------------------------------------------------------------------------------------------


def _pairs(options: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"--column {option}: write FIELD=COLUMN, such as --column text=sentence")
        pairs[name] = value
    return pairs


def _one_character(delimiter: str | None) -> str | None:
    if delimiter == "\\t":
        return "\t"
    if delimiter is not None and len(delimiter) != 1:
        raise ConfigError(f"--delimiter {delimiter!r}: one character is needed, such as '|', or \\t for a tab")
    return delimiter


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
