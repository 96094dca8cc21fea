"""Hub ids through a populated local cache, in a process that may ask no hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nuebridge.checkpoint import save
from nuebridge.compose import compose
from nuebridge_hf.examples.decoders import DECODERS
from nuebridge_hf.examples.encoders import ENCODERS

pytest.importorskip("nuebridge_bridges")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import json, sys
import torch
import nuebridge
from nuebridge.compose import compose
from nuebridge.errors import NuebridgeError

composed = compose("me/encoder", "bridges.conv", "me/decoder")
pinned = compose("hf.hubert:me/encoder", "bridges.conv", "hf.causal-lm:me/decoder")
loaded = nuebridge.load("me/whole", revision=sys.argv[1])
audio = torch.randn(16000, generator=torch.Generator().manual_seed(0)).numpy()
said = []
for name in ("me/absent", "me/decoder"):
    try:
        nuebridge.load(name)
    except NuebridgeError as error:
        said.append(str(error))
print(json.dumps({
    "sources": [composed.part_info[part].source for part in ("encoder", "decoder")],
    "components": [composed.part_info[part].component for part in ("encoder", "decoder")],
    "hashes": [one.weight_hash() for one in (composed, pinned, loaded)],
    "tokens": loaded.transcribe(audio, max_new_tokens=12)[0].token_ids,
    "said": said,
}))
"""


@pytest.fixture
def cached(tmp_path: Path) -> Callable[[str], Path]:
    """``cached(name)``: the folder in a hub cache where the files of ``me/NAME`` belong."""

    def cached(name: str) -> Path:
        repository = tmp_path / "home/hub" / f"models--me--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text(COMMIT)
        (repository / "snapshots" / COMMIT).mkdir(parents=True)
        return repository / "snapshots" / COMMIT

    return cached


def test_parts_and_integrations_by_hub_id(tmp_path: Path, cached: Callable[[str], Path]) -> None:
    folders = {"encoder": cached("encoder"), "decoder": cached("decoder")}
    ENCODERS["hubert-layer-norm"](folders["encoder"])
    DECODERS["llama"](folders["decoder"])
    whole = compose(str(folders["encoder"]), "bridges.conv", str(folders["decoder"]))
    save(whole, tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", cached("whole"), dirs_exist_ok=True)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, COMMIT], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sources"] == ["me/encoder", "me/decoder"]
    assert found["components"] == ["hf.hubert", "hf.causal-lm"]
    assert set(found["hashes"]) == {whole.weight_hash()}
    audio = _noise()
    assert found["tokens"] == list(whole.transcribe(audio, max_new_tokens=12)[0].token_ids)
    absent, decoder = found["said"]
    assert absent.startswith("me/absent is neither a folder here nor reachable as a hub repository (")
    assert "name it in `nuebridge compose`" in decoder


def _noise() -> object:
    import torch

    return torch.randn(16000, generator=torch.Generator().manual_seed(0)).numpy()
