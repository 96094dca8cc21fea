from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nuebridge.errors import CheckpointError
from nuebridge.tensors import WEIGHTS_FILE, load_weights, read_json, read_weights, save_weights, weight_hash, write_json


def test_round_trip_is_exact(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module[1].running_mean.normal_()
    save_weights(module, tmp_path)
    first = (tmp_path / WEIGHTS_FILE).read_bytes()
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_weights(other, tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )
    save_weights(other, tmp_path)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == first


def test_shared_weights_are_written_out(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    save_weights(module, tmp_path)
    assert sorted(load_file(tmp_path / WEIGHTS_FILE)) == ["0.weight", "1.weight"]
    other = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    other[1].weight = other[0].weight
    load_weights(other, tmp_path)
    assert torch.equal(other[1].weight, module[0].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loads_without_loss(tmp_path: Path, dtype: torch.dtype) -> None:
    module = nn.Linear(5, 5).to(dtype)
    save_weights(module, tmp_path)
    other = nn.Linear(5, 5)
    load_weights(other, tmp_path)
    assert other.weight.dtype == torch.float32
    assert torch.equal(other.weight, module.weight.float())


def test_every_weight_that_does_not_fit_is_named(tmp_path: Path) -> None:
    save_weights(nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 3, bias=False)}), tmp_path)
    wanted = nn.ModuleDict({"b": nn.Linear(3, 3, bias=False), "c": nn.Linear(2, 2, bias=False)})
    before = wanted["b"].weight.clone()
    with pytest.raises(CheckpointError) as caught:
        load_weights(wanted, tmp_path)
    message = str(caught.value)
    assert "c.weight is missing" in message and "a.weight is not expected" in message
    assert "b.weight has shape [3, 2], expected [3, 3]" in message
    assert torch.equal(wanted["b"].weight, before)


def test_a_long_list_of_faults_says_how_many_more(tmp_path: Path) -> None:
    save_weights(nn.ParameterList([torch.zeros(1) for _ in range(12)]), tmp_path)
    with pytest.raises(CheckpointError, match="; and 4 more$"):
        load_weights(nn.ParameterList([]), tmp_path)


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing; the checkpoint is incomplete"):
        read_weights(tmp_path / WEIGHTS_FILE)


def test_damaged_weights_give_one_line(tmp_path: Path) -> None:
    save_weights(nn.Linear(4, 4), tmp_path)
    file = tmp_path / WEIGHTS_FILE
    whole = file.read_bytes()
    for size in (0, 1, 7, 8, 9, 40, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"^[^\n]*damaged[^\n]*$"):
            read_weights(file)
    for header in (b"\xff" * 8, b"\x10" + b"\0" * 7):
        file.write_bytes(header + whole[8:])
        with pytest.raises(CheckpointError, match=r"^[^\n]*damaged[^\n]*$"):
            read_weights(file)


def test_weights_that_cannot_be_written_are_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        save_weights(nn.Linear(2, 2), tmp_path / "nowhere")


def test_weight_hash_is_of_values_not_of_names_or_precision() -> None:
    torch.manual_seed(0)
    module = nn.Linear(2, 3).bfloat16()
    found = weight_hash({"part": module})
    renamed = nn.Module()
    renamed.first, renamed.second = module.weight, module.bias
    assert weight_hash({"part": renamed}) == found
    assert weight_hash({"part": nn.Linear(2, 3).bfloat16()}) != found
    assert weight_hash({"other": module}) != found
    assert weight_hash({"part": module.float()}) == found
    with torch.no_grad():
        module.bias[2] = torch.nextafter(module.bias[2], torch.tensor(10.0))
    assert weight_hash({"part": module}) != found


def test_weight_hash_is_the_same_in_every_release() -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    array = struct.pack("<4f", 1.0, -2.0, 0.5, 3.0)
    assert weight_hash({"part": module}) == hashlib.sha256(b"part" + b"[2, 2]" + array).hexdigest()


def test_weight_hash_tells_shapes_apart() -> None:
    flat, square = nn.Module(), nn.Module()
    flat.weight, square.weight = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2, 2))
    assert weight_hash({"part": flat}) != weight_hash({"part": square})


def test_json_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.json"
    write_json(file, {"name": "é", "list": [1, 2.5, None]})
    assert read_json(file) == {"name": "é", "list": [1, 2.5, None]}

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(file, {"name": "other"})
    assert read_json(file)["name"] == "é"


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"{'a': 1}"])
def test_damaged_json_gives_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^[^\n]*config\.json cannot be read as JSON: [^\n]*$"):
        read_json(tmp_path / "config.json")


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing; is this the folder of a checkpoint\?"):
        read_json(tmp_path / "config.json")
