"""The page itself: what the record says, as HTML without scripts, fonts or pictures from elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from nuebridge.tensors import write_text
from nuebridge.train.config import TrainConfig
from nuebridge.train.gain import not_listening
from nuebridge.train.record import read_lines
from nuebridge.train.summary.charts import MISSING, Series, chart, number

log = logging.getLogger(__name__)

SUMMARY_FILE = "summary.html"
"""In the run's folder."""

SHOWN_SAMPLES = 20
"""Earlier validations whose samples are shown, too."""

Line = Mapping[str, Any]


def write_summary(config: TrainConfig, status: str) -> None:
    """Writes the page of a run from its record; ``status`` is what the run is doing now.

    A page that cannot be written is warned about and does not end the run.
    """
    file = config.output / SUMMARY_FILE
    try:
        write_text(file, render(config, read_lines(config.output), status))
    except OSError as error:
        log.warning("cannot write %s: %s", file, error)


def render(config: TrainConfig, lines: Sequence[Line], status: str) -> str:
    """The page of a run as HTML; every text that comes from elsewhere is escaped."""
    run = _Record(config, lines)
    title = f"{config.output.name}: training of {Path(config.model).name}"
    sections = [
        _head(run, title, status),
        _charts(run),
        _samples(run),
        _parts(run),
        _data(run),
        _sittings(run),
        _configuration(config),
    ]
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


class _Record:
    """The lines of a run by kind, and its curves."""

    def __init__(self, config: TrainConfig, lines: Sequence[Line]) -> None:
        self.config = config
        self.starts = [line for line in lines if line["kind"] == "start"]
        self.train = [line for line in lines if line["kind"] == "train"]
        self.validations = [line for line in lines if line["kind"] == "validation"]
        self.last: Line = lines[-1] if lines else {"step": 0, "minutes": 0.0}

    def curve(self, kind: str, name: str, *, label: str | None = None, factor: float = 1.0) -> Series:
        """A figure over the steps, with gaps where lines lack it."""
        lines = self.train if kind == "train" else self.validations
        points = [(line["step"], MISSING if line.get(name) is None else factor * line[name]) for line in lines]
        return Series(label or name.replace("_", " "), points, dots=kind == "validation")

    def values(self, kind: str, name: str) -> list[float]:
        lines = self.train if kind == "train" else self.validations
        return [line[name] for line in lines if line.get(name) is not None]

    def latest(self, kind: str, name: str) -> float | None:
        values = self.values(kind, name)
        return values[-1] if values else None

    def best(self, name: str) -> float | None:
        return min(self.values("validation", name), default=None)

    @cached_property
    def learning_rates(self) -> list[Series]:
        """Per part; parts with the same rates share a curve."""
        parts = list(dict.fromkeys(part for line in self.train for part in line["learning_rate"]))
        shared: dict[tuple[float | None, ...], list[str]] = {}
        for part in parts:
            shared.setdefault(tuple(line["learning_rate"].get(part) for line in self.train), []).append(part)
        steps = [line["step"] for line in self.train]
        return [
            Series(
                ", ".join(parts), [(step, MISSING if r is None else r) for step, r in zip(steps, rates, strict=True)]
            )
            for rates, parts in shared.items()
        ]

    @cached_property
    def stages(self) -> list[tuple[float, str]]:
        """Where each of several stages began."""
        began: dict[str, float] = {}
        for line in self.starts:
            began.setdefault(line["stage"], line["step"])
        return [(step, name) for name, step in began.items()] if len(began) > 1 else []


def _head(run: _Record, title: str, status: str) -> str:
    config, step = run.config, run.last["step"]
    stage = f" · stage {run.last['stage']}" if config.stages and run.last.get("stage") else ""
    written = _moment(datetime.now(UTC).isoformat())
    tiles: list[tuple[str, float | None, Callable[[float], str]]] = [
        ("training loss, nats a token", run.latest("train", "loss"), number),
        ("CTC loss, nats a symbol", run.latest("train", "ctc_loss"), number),
        ("validation loss, nats a token", run.latest("validation", "loss"), number),
        ("best word error rate", run.best("wer"), _percent),
        ("best character error rate", run.best("cer"), _percent),
        ("best CTC character error rate", run.best("ctc_cer"), _percent),
        ("audio gain, nats a token", run.latest("validation", "audio_gain"), number),
        ("audio seconds a second", run.latest("train", "audio_seconds_per_second"), number),
        ("share of time waiting for data", run.latest("train", "data_wait_share"), _percent),
        ("memory", run.latest("train", "memory_gigabytes"), lambda value: f"{value:.3g} GB"),
        ("training and validating", run.last["minutes"], _duration),
    ]
    shown = "".join(f"<li><b>{form(v)}</b><span>{escape(name)}</span></li>" for name, v, form in tiles if v is not None)
    gain = run.latest("validation", "audio_gain")
    advice = None if gain is None else not_listening(gain, config)
    warning = f'<p class="warn">{escape(advice)}</p>' if advice else ""
    return (
        f"<header>\n<h1>{escape(title)}</h1>\n"
        f'<p class="soft">step {step:,} of {config.steps:,}{escape(stage)} · {escape(status)} · written {written}</p>\n'
        f'<progress max="{config.steps}" value="{step}" aria-label="steps done"></progress>\n'
        f'<ul class="tiles">{shown}</ul>\n{warning}</header>'
    )


def _charts(run: _Record) -> str:
    steps: Any = {"last_step": max(1, run.last["step"]), "marks": run.stages}
    losses = [
        run.curve("train", "loss", label="training"),
        run.curve("validation", "loss", label="validation"),
        run.curve("train", "ctc_loss", label="CTC, training"),
        run.curve("train", "auxiliary_loss", label="auxiliary"),
    ]
    rates = [run.curve("validation", name, label=label, factor=100) for name, label in _RATES.items()]
    waits = [run.curve("train", "data_wait_share", label="waiting", factor=100)]
    gain = [run.curve("validation", "audio_gain")]
    speed = [run.curve("train", "audio_seconds_per_second", label="audio seconds")]
    memory = [run.curve("train", "memory_gigabytes", label="memory")]
    figures = [
        chart("Losses", "nats a token", losses, **steps, log=True),
        chart("Validation scores", "%", rates, **steps, zero=True),
        chart("Audio gain", "nats a token", gain, **steps, zero=True),
        chart("Learning rates", "", run.learning_rates, **steps, zero=True),
        chart("Gradient norm", "before clipping", [run.curve("train", "gradient_norm")], **steps, log=True),
        chart("Throughput", "audio seconds a second", speed, **steps, zero=True),
        chart("Waiting for data", "% of the time", waits, **steps, zero=True),
        chart("Memory", "GB", memory, **steps, zero=True),
    ]
    drawn = "\n".join(figure for figure in figures if figure)
    return f'<h2>Curves</h2>\n<div class="charts">\n{drawn}\n</div>' if drawn else ""


_RATES = {"wer": "words (WER)", "cer": "characters (CER)", "ctc_cer": "CTC head's characters"}


def _samples(run: _Record) -> str:
    shown = [line for line in run.validations if line.get("samples")]
    if not shown:
        return ""
    *earlier, last = shown
    kept = earlier[-SHOWN_SAMPLES:]
    before = "\n".join(f"<p>step {line['step']:,}</p>{_pairs(line)}" for line in reversed(kept))
    more = "the last so many" if len(kept) < len(earlier) else "all"
    folded = f"<details><summary>Earlier ({len(kept)}, {more})</summary>\n{before}</details>" if kept else ""
    return f"<h2>What it writes <small>after step {last['step']:,}</small></h2>\n{_pairs(last)}\n{folded}"


def _pairs(line: Line) -> str:
    items = "".join(
        f'<li><p><span>reference</span><span dir="auto">{escape(reference)}</span></p>'
        f'<p><span>hypothesis</span><span dir="auto">{escape(hypothesis)}</span></p></li>'
        for reference, hypothesis in line["samples"]
    )
    return f'<div class="card"><ul class="samples">{items}</ul></div>'


def _parts(run: _Record) -> str:
    if not run.starts:
        return ""
    starts = _latest_of_each_stage(run.starts)
    rows: list[list[object]] = [
        [name, part["component"], part["parameters"], *(line["parts"][name]["trained"] for line in starts)]
        for name, part in starts[-1]["parts"].items()
    ]
    rows.append(["all", "", *(sum(row[column] for row in rows) for column in range(2, 3 + len(starts)))])  # type: ignore[misc]
    trained = [f"trained in {line['stage']}" for line in starts] if run.stages else ["trained"]
    return "<h2>Parts <small>parameters</small></h2>\n" + _table(["part", "component", "in all", *trained], rows)


def _data(run: _Record) -> str:
    rows = []
    for line in _latest_of_each_stage(run.starts):
        count = "" if line["utterances"] is None else f"{line['utterances']:,} utterances"
        skipped = sum(one.get("unreadable", 0) for one in run.train if one["stage"] == line["stage"])
        left_out = [*line["left_out"], *([f"skipped {skipped}: cannot be read"] if skipped else [])]
        rows.append([line["stage"], count, "; ".join(left_out) or "nothing left out"])
    return "<h2>Data</h2>\n" + _table(["stage", "trained on", "left out"], rows) if rows else ""


def _sittings(run: _Record) -> str:
    rows = [
        [_moment(line["time"]), line["stage"], line["step"], line["processes"], line["hardware"]] for line in run.starts
    ]
    return "<h2>Time and hardware</h2>\n" + _table(["begun", "stage", "step", "processes", "on"], rows) if rows else ""


def _configuration(config: TrainConfig) -> str:
    return (
        "<h2>Configuration</h2>\n"
        f'<div class="card"><pre>{escape(_yaml(config.model_dump(mode="json", exclude_unset=True)))}</pre></div>\n'
        f'<details><summary>With all defaults</summary><div class="card">'
        f"<pre>{escape(_yaml(config.model_dump(mode='json')))}</pre></div></details>"
    )


def _latest_of_each_stage(starts: Sequence[Line]) -> list[Line]:
    return list({line["stage"]: line for line in starts}.values())


def _table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def cell(tag: str, value: object, numeric: bool) -> str:
        text = f"{value:,}" if isinstance(value, int) else escape(str(value))
        kind = ' class="number"' if numeric else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    numeric = [bool(rows) and isinstance(value, int) for value in rows[0]]
    head = "".join(cell("th", name, right) for name, right in zip(names, numeric, strict=True))
    body = "".join(
        "<tr>" + "".join(cell("td", value, right) for value, right in zip(row, numeric, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _yaml(data: object) -> str:
    from ruamel.yaml import YAML

    yaml, stream = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 100
    yaml.allow_unicode = True
    yaml.dump(data, stream)
    return stream.getvalue()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _moment(time: str) -> str:
    return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M UTC")


def _duration(minutes: float) -> str:
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest:02d} min" if hours else f"{minutes:.1f} min"


def short_count(count: int) -> str:
    """For instance 812, 34.1 k, 5.8 M, 3.6 B."""
    for limit, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(count)
