"""Word error rates of an integration on a test manifest, by group, engine and voice.

    python score.py --model runs/tiny-en/joint/final --data corpus/test-dev.jsonl [--json scores.json]

Texts are compared in lower case without punctuation; British and American spellings of a word count
as the same word.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import nuebridge
from nuebridge.data import Utterance, read_manifest
from nuebridge.metrics import ErrorCounts, basic_normalize, word_errors
from nuebridge.transcribe import transcribe

SPELLINGS = {
    "neighbour": "neighbor",
    "neighbours": "neighbors",
    "colour": "color",
    "colours": "colors",
    "favourite": "favorite",
    "favourites": "favorites",
    "mum": "mom",
    "mum's": "mom's",
    "burnt": "burned",
    "learnt": "learned",
    "grey": "gray",
    "kilometre": "kilometer",
    "kilometres": "kilometers",
    "metre": "meter",
    "metres": "meters",
    "litre": "liter",
    "litres": "liters",
    "centre": "center",
    "theatre": "theater",
    "programme": "program",
    "tyre": "tire",
    "tyres": "tires",
    "cheque": "check",
    "pyjamas": "pajamas",
    "realise": "realize",
    "realised": "realized",
    "organise": "organize",
    "organised": "organized",
    "apologise": "apologize",
    "apologised": "apologized",
    "travelled": "traveled",
    "travelling": "traveling",
    "cancelled": "canceled",
    "jewellery": "jewelry",
    "okay": "ok",
}
"""British spelling to American, one sound either way."""


def normalize(text: str) -> str:
    """Lower case, no punctuation, one spelling a word."""
    return " ".join(SPELLINGS.get(word, word) for word in basic_normalize(text).split())


def score(model: str, data: Path, batch_size: int) -> dict[str, Any]:
    """Error rates and real-time factor of a model on a manifest."""
    integration = nuebridge.load(model)
    utterances = read_manifest(data, need_text=True)
    started = time.perf_counter()
    rows: list[tuple[Utterance, str]] = []
    for utterance, result in zip(utterances, transcribe(integration, utterances, batch_size=batch_size), strict=True):
        if result.error is not None or result.transcript is None:
            raise SystemExit(f"{utterance.audio_filepath}: {result.error}")
        rows.append((utterance, result.transcript.text))
    seconds = time.perf_counter() - started
    counts: dict[str, dict[str, ErrorCounts]] = {"group": {}, "engine": {}, "voice": {}}
    clips: dict[str, int] = defaultdict(int)
    for utterance, hypothesis in rows:
        errors = word_errors([normalize(utterance.text or "")], [normalize(hypothesis)])
        for by, sums in counts.items():
            key = str(utterance.fields[by])
            sums[key] = sums.get(key, ErrorCounts()) + errors
            clips[f"{by}:{key}"] += 1
    empty = [hypothesis for utterance, hypothesis in rows if not utterance.text]
    audio_seconds = sum(utterance.duration or 0.0 for utterance in utterances)
    return {
        "model": model,
        "weight_hash": integration.weight_hash(),
        "data": data.name,
        "clips": len(rows),
        "rtf": seconds / audio_seconds,
        "threads": torch.get_num_threads(),
        "silence": {"clips": len(empty), "with_text": sum(bool(hypothesis) for hypothesis in empty)},
        "wer": {
            by: {
                key: {"wer": sums[key].rate, "words": sums[key].reference_length, "clips": clips[f"{by}:{key}"]}
                for key in sorted(sums)
            }
            for by, sums in counts.items()
        },
        "hypotheses": [
            {"voice": u.fields["voice"], "reference": u.text, "hypothesis": hypothesis} for u, hypothesis in rows
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny-en")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path, help="also write everything, hypotheses included, to this file")
    arguments = parser.parse_args()
    result = score(arguments.model, arguments.data, arguments.batch_size)
    print(f"{result['clips']} clips of {result['data']}, rtf {result['rtf']:.3f} on {result['threads']} threads")
    silence = result["silence"]
    if silence["clips"]:
        share = silence["with_text"] / silence["clips"]
        print(f"text on {silence['with_text']} of {silence['clips']} clips without speech ({100 * share:.1f} %)")
    for by, sums in result["wer"].items():
        for key, figures in sums.items():
            if not figures["words"]:
                continue
            size = f"{figures['words']} words, {figures['clips']} clips"
            print(f"{by:7} {key:24} WER {100 * figures['wer']:5.1f} %  ({size})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
