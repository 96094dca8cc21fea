"""Makes the training or validation corpus: 16 kHz recordings and their manifest.

    python make_corpus.py --output DIR --hours 24 --seed 1 --jobs 2 --split train
    python make_corpus.py --output DIR --clips 300 --seed 2 --split valid

The corpus depends on the seed alone, not on the number of processes. It is made in blocks of a thousand clips; a block
that is finished is not made again, so the command can be stopped and started. The manifest is written at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
import wave
from collections import Counter
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import effects
from utterances import ClipMaker

BLOCK = 1000
VERSION = 2
VALID_CLIPS = 300
BLOCK_MANIFEST = "block.jsonl"

Entry = dict[str, Any]


def write_wav(path: Path, samples: effects.Samples) -> None:
    """Write a mono 16-bit recording."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(effects.SAMPLE_RATE)
        file.writeframes(effects.to_pcm(samples).tobytes())


def write_lines(path: Path, entries: list[Entry]) -> None:
    """Write a manifest aside, then rename it."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    os.replace(aside, path)


def read_lines(path: Path) -> list[Entry]:
    """Read a manifest."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def block_folder(output: Path, split: str, number: int) -> Path:
    """Where the clips of a block lie."""
    return output / split / f"{number:04d}"


def finished_block(output: Path, split: str, number: int, count: int) -> list[Entry] | None:
    """The entries of a block that is there already, or None."""
    manifest = block_folder(output, split, number) / BLOCK_MANIFEST
    if not manifest.exists():
        return None
    entries = read_lines(manifest)
    return entries if len(entries) == count else None


def make_block(output: Path, split: str, seed: int, number: int, first: int, count: int) -> list[Entry]:
    """Make a block of clips, or take it as it is if it is finished; returns its manifest entries."""
    entries = finished_block(output, split, number, count)
    if entries is not None:
        return entries
    folder = block_folder(output, split, number)
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    maker = ClipMaker(seed, split)
    entries = []
    for index in range(first, first + count):
        clip = maker.make(index)
        name = f"{index:07d}.wav"
        write_wav(aside / name, clip.samples)
        entries.append(
            {
                "audio_filepath": f"{split}/{folder.name}/{name}",
                "text": clip.text,
                "duration": round(clip.samples.size / effects.SAMPLE_RATE, 4),
                "engine": clip.engine,
                "voice": clip.voice,
                "rate": clip.rate,
                "kind": clip.kind,
                "overlaps": clip.overlaps,
            }
        )
    write_lines(aside / BLOCK_MANIFEST, entries)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    return entries


def blocks_in_order(
    output: Path, split: str, seed: int, jobs: int, clips: int | None, block: int
) -> Generator[list[Entry], None, None]:
    """The entries of every block, in order, made by ``jobs`` processes a little ahead of what is asked for."""
    context = multiprocessing.get_context("spawn")
    waiting: list[Future[list[Entry]]] = []
    number = 0
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        try:
            while True:
                while len(waiting) < jobs + 1:
                    first = number * block
                    count = block if clips is None else min(block, clips - first)
                    if count <= 0:
                        break
                    waiting.append(pool.submit(make_block, output, split, seed, number, first, count))
                    number += 1
                if not waiting:
                    return
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def check_settings(output: Path, split: str, seed: int, block: int) -> None:
    """Refuse a folder whose blocks were made with another seed or version."""
    settings = {"version": VERSION, "seed": seed, "block": block}
    path = output / f"{split}.settings.json"
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != settings:
            raise SystemExit(f"{path.name} says that this folder was made with other settings; choose another folder")
        return
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings) + "\n", encoding="utf-8")


def statistics(entries: list[Entry], overlaps: int) -> dict[str, Any]:
    """The figures of a corpus."""
    return {
        "clips": len(entries),
        "hours": round(sum(entry["duration"] for entry in entries) / 3600, 3),
        "characters": sum(len(entry["text"]) for entry in entries),
        "distinct_texts": len({entry["text"] for entry in entries}),
        "distinct_words": len({word for entry in entries for word in entry["text"].split()}),
        "test_sentences_dropped": overlaps,
        "kinds": dict(Counter(entry["kind"] for entry in entries).most_common()),
        "engines": dict(Counter(entry["engine"] for entry in entries).most_common()),
        "voices": len({entry["voice"] for entry in entries}),
    }


def make_corpus(
    output: Path,
    split: str,
    seed: int,
    jobs: int,
    hours: float | None = None,
    clips: int | None = None,
    block: int = BLOCK,
) -> dict[str, Any]:
    """Make a split until it has so many hours (whole blocks) or clips; returns its figures."""
    check_settings(output, split, seed, block)
    started = time.monotonic()
    entries: list[Entry] = []
    seconds = 0.0
    blocks = blocks_in_order(output, split, seed, jobs, clips, block)
    for made in blocks:
        entries.extend(made)
        seconds += sum(entry["duration"] for entry in made)
        elapsed = time.monotonic() - started
        print(f"{split}: {len(entries)} clips, {seconds / 3600:.2f} h in {elapsed:.0f} s", file=sys.stderr, flush=True)
        if hours is not None and seconds >= hours * 3600:
            break
    blocks.close()
    remove_other_blocks(output, split, {Path(entry["audio_filepath"]).parent.name for entry in entries})
    overlaps = sum(entry.pop("overlaps") for entry in entries)
    figures = statistics(entries, overlaps)
    (output / f"{split}.stats.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    write_lines(output / f"{split}.jsonl", entries)
    return figures


def remove_other_blocks(output: Path, split: str, kept: set[str]) -> None:
    """Remove blocks that were made ahead and are not in the manifest."""
    for folder in (output / split).iterdir():
        if folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make the training or validation corpus.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--split", choices=("train", "valid"), default="train")
    parser.add_argument("--hours", type=float, help="length of the split (default 24 for train)")
    parser.add_argument("--clips", type=int, help=f"number of clips instead of hours (default {VALID_CLIPS} for valid)")
    parser.add_argument("--seed", type=int, help="default 1 for train, 2 for valid")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    hours, clips = options.hours, options.clips
    if hours is None and clips is None:
        hours, clips = (24.0, None) if options.split == "train" else (None, VALID_CLIPS)
    seed = options.seed if options.seed is not None else {"train": 1, "valid": 2}[options.split]
    print(json.dumps(make_corpus(options.output, options.split, seed, options.jobs, hours, clips), indent=2))


if __name__ == "__main__":
    main()
