"""``nuebridge transcribe``: recordings become text on the standard output or in a folder."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from nuebridge.cli._adapters import Adapters, AdapterWeights, parse_adapters, parse_weights, use_adapters
from nuebridge.cli._context import CliContext, RegistryFiles, warn
from nuebridge.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from nuebridge.contracts import RecognitionOptions, Recognizer
    from nuebridge.data import Utterance
    from nuebridge.model import Integration

    Input = Path | Utterance

INTERRUPTED, BROKEN_PIPE = 130, 141
"""Exit statuses of a program that SIGINT or SIGPIPE ends (128 + signal)."""

LONG_WORK_SECONDS = 2.0
"""Work that has taken this long and is not done gets a progress bar."""


class Format(StrEnum):
    """How transcripts are written."""

    txt = "txt"
    json = "json"
    jsonl = "jsonl"
    srt = "srt"
    vtt = "vtt"


def transcribe(
    ctx: typer.Context,
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings: wav, flac, mp3, ogg, m4a, webm, mp4.")] = None,
    data: Annotated[Path | None, typer.Option(help="A manifest (JSON Lines) in place of FILES.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Integration: registry name, folder or hub id [default: the embedded one].")
    ] = None,
    adapter: Adapters = None,
    adapter_weight: AdapterWeights = None,
    format: Annotated[Format, typer.Option(help="What to write for each recording.")] = Format.txt,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write NAME.FORMAT for each recording into this folder.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips at once; results do not depend on it.")] = 8,
    beam_size: Annotated[int, typer.Option(min=1, help="Beams of the search; 1 = greedy.")] = 1,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest text of a clip, in tokens [default: the integration's own].")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of the speech, where the prompt has it.")] = None,
    task: Annotated[str | None, typer.Option(help="What to do with the speech, where the prompt has a task.")] = None,
    context: Annotated[str | None, typer.Option(help="Words to expect, where the prompt has a context.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16 [default: float32 whatever the checkpoint holds].")
    ] = None,
    registry: RegistryFiles = None,
) -> None:
    """Turn recordings into text.

    Results come in the order of the input. A recording that cannot be read is reported on the
    standard error; the rest is transcribed, and the exit status is 1.
    """
    try:
        inputs = _inputs(files or [], data)
        targets = _targets(inputs, format, output_dir)
        adapters, weights = parse_adapters(adapter), parse_weights(adapter_weight)
        # torch comes in here, once the command line is known to be right.
        from nuebridge.contracts import RecognitionOptions

        options = RecognitionOptions(beam_size, max_new_tokens, language=language, task=task, context=context)
        recognizer = _load(ctx.ensure_object(CliContext), model, registry, device, dtype)
        use_adapters(recognizer, adapters, weights)
        status = run(recognizer, inputs, options, format=format, targets=targets, batch_size=batch_size)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader has left; what Python would still flush at its end must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
    if status:
        raise typer.Exit(status)


def run(
    recognizer: Recognizer,
    inputs: Sequence[Input],
    options: RecognitionOptions,
    *,
    format: Format = Format.txt,
    targets: Sequence[Path] | None = None,
    batch_size: int = 8,
) -> int:
    """Transcribes inputs and writes them, to ``targets`` or the standard output. Returns the exit status."""
    from nuebridge.formats import WRITERS
    from nuebridge.transcribe import transcribe as transcribe_all

    status = 0
    with _Bar(len(inputs)) as bar:
        results = transcribe_all(recognizer, inputs, options=options, batch_size=batch_size, on_progress=bar.update)
        for index, result in enumerate(results):
            with bar.hidden():
                if result.transcript is None:
                    typer.echo(f"error: {result.error}", err=True)
                    status = 1
                    continue
                for warning in result.transcript.warnings:
                    warn(f"{_label(inputs[index])}: {warning}")
                document = WRITERS[format](result.transcript)
                if targets is not None:
                    _write(targets[index], document)
                    continue
                prefix = f"{_label(inputs[index])}: " if format is Format.txt and len(inputs) > 1 else ""
                sys.stdout.write(prefix + document)
                sys.stdout.flush()
    return status


def _inputs(files: Sequence[Path], data: Path | None) -> Sequence[Input]:
    """The files, or the utterances of the manifest. Raises ConfigError for both or neither, DataError."""
    if data is not None and files:
        raise ConfigError(f"give recordings or --data, not both ({files[0]} and --data {data})")
    if data is None:
        if not files:
            raise ConfigError("nothing to transcribe: give recordings, or a manifest with --data")
        return files
    # The manifest reader knows audio, which is slow to import.
    from nuebridge.data import read_manifest

    return read_manifest(data)


def _targets(inputs: Sequence[Input], format: Format, output_dir: Path | None) -> list[Path] | None:
    """The file to write for each input; None for the standard output. Makes the folder.

    Raises ConfigError where two inputs would be written to one file, an input would be
    overwritten, or several documents that cannot follow each other go to the standard output.
    """
    if output_dir is None:
        if len(inputs) > 1 and format in (Format.srt, Format.vtt):
            raise ConfigError(f"{len(inputs)} recordings do not fit into one {format} document; name an --output-dir")
        return None
    targets = [output_dir / f"{_stem(one)}.{format}" for one in inputs]
    # Compared without case, since two names that differ in case are one file on some systems.
    first: dict[str, Input] = {}
    for one, target in zip(inputs, targets, strict=True):
        other = first.setdefault(target.name.casefold(), one)
        if other is not one:
            raise ConfigError(
                f"{_label(other)} and {_label(one)} would both be written to {target}; transcribe them into two "
                "folders, or give the lines of the manifest an id"
            )
        if target.resolve() == _path(one).resolve():
            raise ConfigError(f"{target} would be written over its own recording; choose another --output-dir")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {output_dir} ({error.strerror}); choose another") from None
    return targets


def _path(one: Input) -> Path:
    return one if isinstance(one, Path) else one.audio_filepath


def _has_own_id(one: Utterance) -> bool:
    """False where the manifest's reader made the id from file name and line number."""
    return not one.id.startswith(f"{one.audio_filepath.name}:")


def _label(one: Input) -> str:
    """What messages and prefixes call an input."""
    return f"{_path(one)}" if isinstance(one, Path) or not _has_own_id(one) else f"{_path(one)} ({one.id})"


def _stem(one: Input) -> str:
    """The file name of an input's transcript, without extension: the id of a manifest line where it has one."""
    if isinstance(one, Path) or not _has_own_id(one):
        return _path(one).stem
    return re.sub(r"[^\w.-]", "_", one.id)


def _write(target: Path, document: str) -> None:
    """Writes beside the target and renames, so that no half-written file bears its name."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        aside.write_text(document, encoding="utf-8", newline="\n")
        aside.replace(target)
    except OSError as error:
        raise ConfigError(f"cannot write {target} ({error.strerror})") from None
    finally:
        aside.unlink(missing_ok=True)


def _load(
    context: CliContext, model: str | None, registry: Sequence[Path] | None, device: str, dtype: str | None
) -> Integration:
    """The integration that is named, or the default one. Raises ConfigError where there is none."""
    from nuebridge.checkpoint import load

    workshop = context.workshop(registry)
    if model == "":
        raise ConfigError("--model is empty; name an integration, or leave the option out for the default one")
    source = model or workshop.registry.default_integration
    if source is None:
        raise ConfigError(
            'no installed plugin brings a default integration; run `pip install "nuebridge[all]"`, '
            "or name an integration with --model"
        )
    return load(source, device=device, dtype=dtype, manager=workshop.manager, registry=workshop.registry)


class _Bar:
    """A progress bar on the standard error, once the work turns out to be long; none where that is piped."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.began = time.monotonic()
        self.progress: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def update(self, done: float) -> None:
        """Notes how many inputs are done; a long recording counts in parts."""
        if self.progress is None and self._is_due(done):
            self._begin()
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Takes the bar off the terminal while something else is printed."""
        if self.progress is None:
            yield
            return
        self.progress.stop()
        yield
        self.progress.start()

    def _is_due(self, done: float) -> bool:
        return done < self.total and time.monotonic() - self.began > LONG_WORK_SECONDS and sys.stderr.isatty()

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        # Output goes past the bar, not through it: it may be piped elsewhere and must not be wrapped.
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.task = self.progress.add_task("transcribing", total=self.total)
        self.progress.start()
