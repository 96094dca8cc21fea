from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy.parts import ToyDecoder, ToyEncoder, write_source

from nuebridge.checkpoint import load, push_to_hub, save
from nuebridge.compose import Workshop, compose_entry
from nuebridge.contracts import RecognitionOptions
from nuebridge.errors import CheckpointError, ConfigError, PluginError, RegistryError
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge.registry import Layer, Registry
from nuebridge.settings import GenerationSettings, PromptTemplate, TokenBudget


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def opened(toy_workshop: Workshop) -> Callable[..., Integration]:
    """``load`` with the toy plugin and registry."""

    def opened(source: str | Path, **options: Any) -> Integration:
        return load(source, manager=toy_workshop.manager, registry=toy_workshop.registry, **options)

    return opened


@pytest.fixture
def own(tmp_path: Path, toy_manager: PluginManager) -> Integration:
    """An integration whose encoder and decoder have sources of this test's own."""
    write_source(tmp_path / "sources/encoder", "encoder", 12)
    write_source(tmp_path / "sources/decoder", "decoder", 16)
    (tmp_path / "sources/registry.yaml").write_text(
        "encoders:\n  chunks: {component: toy.encoder, source: ./encoder}\n"
        "decoders:\n  bytes: {component: toy.decoder, source: ./decoder}\n"
        "integrations:\n  toys: {encoder: chunks, bridge: toy.bridge, decoder: bytes}\n"
    )
    registry = Registry([Layer("option", tmp_path / "sources/registry.yaml")])
    return compose_entry(registry.integration("toys"), Workshop(toy_manager, registry))


# --- round trips -----------------------------------------------------------------------------------


def test_save_load_save_is_bit_identical(
    toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path
) -> None:
    toy_integration.prompt = PromptTemplate(prefix="{context}é", suffix="[x]", defaults={"context": "a"})
    toy_integration.generation = GenerationSettings(max_new_tokens=TokenBudget(per_second=3, plus=7), min_new_tokens=1)
    toy_integration.max_audio_seconds, toy_integration.language = 20.0, "en"
    toy_integration.training_history = [{"steps": 3, "configuration": {"seed": 1, "rate": 1e-4}}]
    save(toy_integration, tmp_path / "first")
    loaded = opened(tmp_path / "first")
    save(loaded, tmp_path / "second")
    save(opened(tmp_path / "second"), tmp_path / "third")
    assert tree(tmp_path / "first") == tree(tmp_path / "second") == tree(tmp_path / "third")
    assert sorted(tree(tmp_path / "first")) == [
        "bridge/model.safetensors",
        "config.json",
        "ctc_head/model.safetensors",
        "decoder/config.json",
        "decoder/model.safetensors",
        "encoder/config.json",
        "encoder/model.safetensors",
    ]
    for name in ("prompt", "generation", "max_audio_seconds", "language", "training_history", "part_info"):
        assert getattr(loaded, name) == getattr(toy_integration, name)


def test_a_loaded_integration_is_the_same(
    toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path
) -> None:
    save(toy_integration, tmp_path / "saved")
    loaded = opened(tmp_path / "saved")
    assert loaded.weight_hash() == toy_integration.weight_hash()
    assert not any(module.training for module in loaded.modules())
    waveforms = [torch.randn(900), torch.randn(400)]
    options = RecognitionOptions()
    assert loaded.recognize(waveforms, options) == toy_integration.recognize(waveforms, options)


def test_config_describes_the_integration(toy_integration: Integration, tmp_path: Path) -> None:
    save(toy_integration, tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert (config["model_type"], config["schema_version"], config["dtype"]) == ("nuebridge", 2, "float32")
    assert list(config["parts"]) == ["encoder", "ctc_head", "bridge", "decoder"]
    encoder = config["parts"]["encoder"]
    assert encoder["info"]["distribution"] == "nuebridge-toy" and encoder["info"]["version"] == "0.1"
    assert encoder["info"]["source_hash"] == encoder["hash"] and encoder["weights"] == "here"
    assert config["parts"]["ctc_head"]["options"]["symbols"][:2] == [" ", "a"]


def test_without_a_ctc_head(own: Integration, opened: Callable[..., Integration], tmp_path: Path) -> None:
    save(own, tmp_path / "saved")
    loaded = opened(tmp_path / "saved")
    assert loaded.ctc_head is None
    save(loaded, tmp_path / "again")
    assert tree(tmp_path / "saved") == tree(tmp_path / "again")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_half_precision_storage(
    toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path, dtype: str | torch.dtype
) -> None:
    before = [parameter.detach().clone() for parameter in toy_integration.parameters()]
    save(toy_integration, tmp_path / "half", dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(before, toy_integration.parameters(), strict=True))
    stored = {tensor.dtype for tensor in load_file(tmp_path / "half/decoder/model.safetensors").values()}
    assert stored == {torch.bfloat16 if dtype == "bfloat16" else dtype}
    loaded = opened(tmp_path / "half")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    save(loaded, tmp_path / "again")
    assert tree(tmp_path / "half") == tree(tmp_path / "again")


def test_training_a_half_precision_checkpoint_loses_nothing(
    toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path
) -> None:
    save(toy_integration, tmp_path / "half", dtype="bfloat16")
    loaded = opened(tmp_path / "half")
    with torch.no_grad():
        loaded.bridge.conv.bias[0] += 1e-5  # less than bfloat16 can tell
    save(loaded, tmp_path / "trained")
    again = opened(tmp_path / "trained")
    assert torch.equal(again.bridge.conv.bias, loaded.bridge.conv.bias)
    assert json.loads((tmp_path / "trained/config.json").read_text())["dtype"] == "float32"


def test_precision_in_memory(toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path) -> None:
    save(toy_integration, tmp_path / "full")
    half = opened(tmp_path / "full", dtype="bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    with pytest.raises(CheckpointError, match="unknown dtype 'int8'; allowed: float32, bfloat16, float16"):
        opened(tmp_path / "full", dtype="int8")


def test_parts_of_unlike_precision_are_stored_in_the_widest(
    toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path
) -> None:
    toy_integration.decoder.bfloat16()
    save(toy_integration, tmp_path / "mixed")
    loaded = opened(tmp_path / "mixed")
    assert loaded.weight_hash() == toy_integration.weight_hash()
    save(loaded, tmp_path / "again")
    assert tree(tmp_path / "mixed") == tree(tmp_path / "again")


def test_a_precision_that_checkpoints_do_not_have(toy_integration: Integration, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not stored as torch\.float64; pass dtype, one of: float32"):
        save(toy_integration.double(), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# --- trained weights only --------------------------------------------------------------------------


def test_trained_weights_only(own: Integration, opened: Callable[..., Integration], tmp_path: Path) -> None:
    with torch.no_grad():
        own.decoder.head.bias += 1
    save(own, tmp_path / "small", weights="trained")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["bridge", "config.json", "decoder"]
    loaded = opened(tmp_path / "small")
    assert loaded.weight_hash() == own.weight_hash()
    save(loaded, tmp_path / "again", weights="trained")
    assert tree(tmp_path / "small") == tree(tmp_path / "again")
    save(loaded, tmp_path / "whole")
    assert opened(tmp_path / "whole").weight_hash() == own.weight_hash()


def test_trained_weights_only_in_half_precision(
    own: Integration, opened: Callable[..., Integration], tmp_path: Path
) -> None:
    """What is left out is left out whatever the precision of the rest."""
    save(own, tmp_path / "small", weights="trained", dtype="bfloat16")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["bridge", "config.json"]
    loaded = opened(tmp_path / "small")
    assert torch.equal(loaded.encoder.proj.weight, own.encoder.proj.weight)
    assert torch.equal(loaded.bridge.conv.weight, own.bridge.conv.weight.bfloat16().float())


def test_a_missing_source(own: Integration, opened: Callable[..., Integration], tmp_path: Path) -> None:
    save(own, tmp_path / "small", weights="trained")
    shutil.rmtree(tmp_path / "sources/encoder")
    with pytest.raises(
        CheckpointError, match=r"was saved without its encoder, which cannot be had from .*/sources/encoder"
    ):
        opened(tmp_path / "small")


def test_a_changed_source(own: Integration, opened: Callable[..., Integration], tmp_path: Path) -> None:
    save(own, tmp_path / "small", weights="trained")
    shutil.rmtree(tmp_path / "sources/encoder")
    write_source(tmp_path / "sources/encoder", "encoder", 12, seed=99)
    with pytest.raises(
        CheckpointError, match=r"saved without its encoder.*that source now gives hash .*version it was trained"
    ):
        opened(tmp_path / "small")


def test_an_unknown_choice_of_weights(own: Integration, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="unknown choice of weights 'some'; allowed: all, trained"):
        save(own, tmp_path / "saved", weights="some")  # type: ignore[arg-type]


# --- whole or not at all ---------------------------------------------------------------------------


def test_the_folder_appears_when_it_is_complete(
    toy_integration: Integration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "deep/er/saved"
    written = ToyDecoder.save

    def watching(part: ToyDecoder, folder: Path) -> None:
        assert not target.exists()
        written(part, folder)

    monkeypatch.setattr(ToyDecoder, "save", watching)
    save(toy_integration, target)
    assert [path.name for path in target.parent.iterdir()] == ["saved"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in [target, *target.rglob("*")]}
    assert {modes["saved"], modes["decoder"]} == {0o755} and modes["model.safetensors"] == 0o644


def fail_in_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: ToyDecoder, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half of")
        raise OSError("No space left on device")

    monkeypatch.setattr(ToyDecoder, "save", full)


def fail_at_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if (path / "config.json").exists() and target.name == "saved" and path.name != "folder":
            raise OSError("No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)


@pytest.mark.parametrize("fault", [fail_in_decoder, fail_at_rename])
@pytest.mark.parametrize("before", [False, True])
def test_a_save_that_fails_leaves_what_was_there(
    toy_integration: Integration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    before: bool,
) -> None:
    if before:
        save(toy_integration, tmp_path / "saved")
        toy_integration.language = "ja"
    found = tree(tmp_path)
    fault(monkeypatch)
    with pytest.raises(CheckpointError, match=r"cannot save to .*/saved: No space left.*untouched$"):
        save(toy_integration, tmp_path / "saved", overwrite=True)
    assert tree(tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == (["saved"] if before else [])


def test_an_interrupted_save_leaves_nothing(
    toy_integration: Integration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(part: ToyDecoder, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ToyDecoder, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(toy_integration, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_overwriting(toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path) -> None:
    save(toy_integration, tmp_path / "saved")
    first = tree(tmp_path / "saved")
    toy_integration.language = "ja"
    with pytest.raises(
        CheckpointError, match="exists and is not empty; choose another folder \\(in Python: overwrite=True\\)"
    ):
        save(toy_integration, tmp_path / "saved")
    assert tree(tmp_path / "saved") == first
    save(toy_integration, tmp_path / "saved", overwrite=True)
    assert opened(tmp_path / "saved").language == "ja"
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("content", ["notes.txt", "config.json"])
def test_nothing_but_an_integration_is_overwritten(toy_integration: Integration, tmp_path: Path, content: str) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / content).write_text('{"model_type": "other"}')
    with pytest.raises(CheckpointError, match="papers holds something else than an integration"):
        save(toy_integration, tmp_path / "papers", overwrite=True)
    assert (tmp_path / "papers" / content).exists()


def test_an_empty_folder_is_filled(
    toy_integration: Integration, opened: Callable[..., Integration], tmp_path: Path
) -> None:
    (tmp_path / "saved").mkdir()
    save(toy_integration, tmp_path / "saved")
    opened(tmp_path / "saved")


def test_a_file_in_the_way(toy_integration: Integration, tmp_path: Path) -> None:
    (tmp_path / "saved").write_text("x")
    with pytest.raises(CheckpointError, match="saved is a file"):
        save(toy_integration, tmp_path / "saved", overwrite=True)
    with pytest.raises(CheckpointError, match="cannot write to"):
        save(toy_integration, tmp_path / "saved/deeper")


# --- what is damaged -------------------------------------------------------------------------------


@pytest.fixture
def saved(toy_integration: Integration, tmp_path: Path) -> Path:
    save(toy_integration, tmp_path / "saved")
    return tmp_path / "saved"


PARTS = ("encoder", "ctc_head", "bridge", "decoder")


@pytest.mark.parametrize("name", PARTS)
def test_damaged_weights(saved: Path, opened: Callable[..., Integration], name: str) -> None:
    file = saved / name / "model.safetensors"
    whole = file.read_bytes()
    damaged = [whole[:size] for size in (0, 5, 60, len(whole) // 2, len(whole) - 1)]
    damaged += [whole + b"\0", whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"^[^\n]*/saved/{name}[^\n]*$"):
            opened(saved)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"^[^\n]*model\.safetensors is missing[^\n]*$"):
        opened(saved)


@pytest.mark.parametrize("name", PARTS)
def test_edited_weights(saved: Path, opened: Callable[..., Integration], name: str) -> None:
    file = saved / name / "model.safetensors"
    # Copies: older releases map the file, which is about to be written over.
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    changed = next(iter(tensors))
    save_file({**tensors, changed: tensors[changed] + 0.001}, file)
    with pytest.raises(
        CheckpointError, match=rf"^the weights in [^\n]*/{name} are not those that config.json describes[^\n]*$"
    ):
        opened(saved)
    save_file({key: value for key, value in tensors.items() if key != changed}, file)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*{changed} is missing[^\n]*$"):
        opened(saved)
    save_file({**tensors, "extra": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"^[^\n]*extra is not expected[^\n]*$"):
        opened(saved)


@pytest.mark.parametrize("size", [0, 1, 50, -3])
def test_a_truncated_config(saved: Path, opened: Callable[..., Integration], size: int) -> None:
    file = saved / "config.json"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"^[^\n]*config\.json cannot be read as JSON[^\n]*$"):
        opened(saved)


def edited(saved: Path, **changes: Any) -> None:
    """Changes values of config.json at ``a__b`` = a.b; ``...`` removes one."""
    file = saved / "config.json"
    config = json.loads(file.read_text())
    for way, value in changes.items():
        here = config
        *before, last = way.split("__")
        for key in before:
            here = here[key]
        if value is ...:
            del here[last]
        else:
            here[last] = value
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": ...}, "prompt: is missing"),
        ({"training": ..., "language": ...}, "language: is missing; .*training: is missing"),
        ({"parts__bridge": ...}, "parts.bridge: is missing"),
        ({"parts": []}, "parts: should be a mapping"),
        ({"parts__encoder__hash": 3}, "parts.encoder.hash: should be a valid string, not 3"),
        ({"parts__encoder__info__component": ...}, "component: is missing"),
        ({"parts__encoder__info__maker": "x"}, "maker"),
        ({"parts__encoder__weights": "there"}, "'there' is not known"),
        ({"parts__bridge__weights": "source"}, "the weights are left out, but their source is not named"),
        ({"dtype": "int8"}, "dtype: 'int8' is not known"),
        ({"prompt__suffix": "{x}"}, "declares the field 'x'"),
        ({"colour": "red"}, "colour: unknown key"),
        ({"parts__ctc_head__options": {"symbols": ["a", "a"]}}, "a symbol is listed twice"),
        ({"parts__bridge__options": {"kernel": 3}}, "options of toy.bridge: kernel: unknown key"),
        ({"parts__encoder__options": {"size": 3}}, "options of toy.encoder: size: unknown key"),
    ],
)
def test_an_edited_config(saved: Path, opened: Callable[..., Integration], changes: dict[str, Any], said: str) -> None:
    edited(saved, **changes)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*config\.json[^\n]*{said}[^\n]*$"):
        opened(saved)


@pytest.mark.parametrize(("version", "said"), [(3, "3"), (0, "0"), (True, "True"), (None, "None"), ("1", "'1'")])
def test_another_schema_is_refused(saved: Path, opened: Callable[..., Integration], version: Any, said: str) -> None:
    edited(saved, schema_version=version)
    with pytest.raises(
        CheckpointError, match=f"has schema_version {said}; this nuebridge reads 1 to 2: install the release"
    ):
        opened(saved)


def test_schema_1_had_no_adapters(saved: Path, opened: Callable[..., Integration], tmp_path: Path) -> None:
    today = opened(saved)
    edited(saved, schema_version=1, adapters=...)
    migrated = opened(saved)
    assert migrated.weight_hash() == today.weight_hash() and migrated.adapters == {}
    save(migrated, tmp_path / "again")
    save(today, tmp_path / "today")
    assert tree(tmp_path / "again") == tree(tmp_path / "today")


def test_another_format(saved: Path, opened: Callable[..., Integration]) -> None:
    edited(saved, model_type="other")
    with pytest.raises(CheckpointError, match="model_type 'other', which is neither nuebridge's own format nor one"):
        opened(saved)
    (saved / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds no JSON object"):
        opened(saved)


def test_a_missing_plugin_says_what_to_install(saved: Path, tmp_path: Path, toy_registry: Registry) -> None:
    none = PluginManager.discover({}, path=[str(tmp_path)])
    with pytest.raises(PluginError, match="speech encoder 'toy.encoder': run `pip install nuebridge-toy`"):
        load(saved, manager=none, registry=toy_registry)


# --- by name ---------------------------------------------------------------------------------------


def test_a_registry_name_without_weights_is_composed(
    opened: Callable[..., Integration], toy_integration: Integration
) -> None:
    assert opened("toys").weight_hash() == toy_integration.weight_hash()


def test_a_registry_name_with_weights(saved: Path, tmp_path: Path, toy_manager: PluginManager) -> None:
    (tmp_path / "registry.yaml").write_text(
        "integrations:\n"
        "  plain: {weights: {source: ./saved}}\n"
        "  tuned:\n    weights: {source: ./saved}\n    max_new_tokens: {per_second: 1, plus: 2}\n"
        '    language: en\n    max_audio_seconds: 9\n    prompt: {prefix: "x"}\n'
    )
    registry = Registry([Layer("option", tmp_path / "registry.yaml")])
    plain = load("plain", manager=toy_manager, registry=registry)
    assert plain.generation.max_new_tokens == TokenBudget(per_second=4, plus=8)
    assert plain.prompt.suffix == ":" and plain.language is None and plain.max_audio_seconds is None
    tuned = load("tuned", manager=toy_manager, registry=registry)
    assert tuned.generation == GenerationSettings(max_new_tokens=TokenBudget(per_second=1, plus=2))
    assert (tuned.prompt, tuned.language, tuned.max_audio_seconds) == (PromptTemplate(prefix="x"), "en", 9.0)
    assert tuned.weight_hash() == plain.weight_hash()


def test_a_folder_does_not_hide_a_registry_name(
    saved: Path, opened: Callable[..., Integration], monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(saved, language="here")
    saved.rename(saved.parent / "toys")
    monkeypatch.chdir(saved.parent)
    assert opened("toys").language is None
    assert opened("./toys").language == opened(Path("toys")).language == "here"


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("toyz", RegistryError, "did you mean 'toys'"),
        ("./nowhere", CheckpointError, "./nowhere is not a folder"),
        ("/nowhere/at/all", CheckpointError, "is not a folder"),
        (Path("nowhere"), CheckpointError, "nowhere is not a folder"),
    ],
)
def test_what_is_not_there(
    opened: Callable[..., Integration], source: str | Path, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        opened(source)


def test_a_hub_id_that_cannot_be_reached(opened: Callable[..., Integration], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"^no/such-model is neither a folder here nor reachable[^\n]*$"):
        opened("no/such-model")


def test_an_empty_folder(opened: Callable[..., Integration], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing; is this the folder of a checkpoint"):
        opened(tmp_path)


def test_parts_of_an_unknown_origin(tmp_path: Path) -> None:
    from toy.parts import ToyBridge

    model = Integration(ToyEncoder(12), ToyBridge(12, 16), ToyDecoder(16))
    with pytest.raises(CheckpointError, match="does not say where its encoder comes from; pass part_info"):
        save(model, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_methods_are_the_same_functions(toy_integration: Integration, tmp_path: Path, toy_workshop: Workshop) -> None:
    toy_integration.save_pretrained(tmp_path / "a")
    save(toy_integration, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    again = Integration.from_pretrained(tmp_path / "a", manager=toy_workshop.manager, registry=toy_workshop.registry)
    assert again.weight_hash() == toy_integration.weight_hash()


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there(saved: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"^cannot compute on '{device}' \([^\n]*\); use 'cpu'$"):
        load(saved, device=device)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_missing_part_is_not_looked_for_elsewhere(saved: Path, opened: Callable[..., Integration], name: str) -> None:
    shutil.rmtree(saved / name)
    with pytest.raises(CheckpointError, match=rf"{name} is missing; the checkpoint is incomplete"):
        opened(saved)


def test_an_entry_that_names_other_parts_than_its_weights_have(
    saved: Path, tmp_path: Path, toy_manager: PluginManager, toy_registry_file: Path
) -> None:
    parts = {"encoder": "chunks", "bridge": "pairs", "decoder": "bytes", "ctc_head": "letters"}
    others = tmp_path / "registry.yaml"

    def opened_with(**changed: str) -> Integration:
        said = ", ".join(f"{part}: {name}" for part, name in {**parts, **changed}.items())
        others.write_text(
            f"decoders:\n  others: {{component: toy.decoder, source: {toy_registry_file.parent / 'encoder'}}}\n"
            'ctc_heads:\n  digits: {vocabulary: {symbols: "0123"}}\n'
            f"integrations:\n  mine: {{{said}, weights: {{source: {saved}}}}}\n"
        )
        registry = Registry([Layer("user", toy_registry_file), Layer("option", others)])
        return load("mine", manager=toy_manager, registry=registry)

    assert opened_with().weight_hash()
    with pytest.raises(RegistryError, match=r"the decoder 'others', but the weights in .* leave the decoder out"):
        opened_with(decoder="others")
    with pytest.raises(RegistryError, match=r"the ctc_head 'digits', but .* \(other symbols\)"):
        opened_with(ctc_head="digits")


def test_a_revision_of_what_is_no_repository(saved: Path, toy_workshop: Workshop) -> None:
    for source in (saved, "toys"):
        with pytest.raises(ConfigError, match="revision 'abc' is given, but .*; leave it out"):
            load(source, revision="abc", manager=toy_workshop.manager, registry=toy_workshop.registry)


def test_what_is_uploaded_names_no_folder_and_is_whole(
    toy_integration: Integration, monkeypatch: pytest.MonkeyPatch, toy_workshop: Workshop
) -> None:
    """Parts of a local folder: nobody else could fetch them from there."""
    import huggingface_hub

    uploaded: dict[str, Any] = {}

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None: ...

        def upload_folder(self, repo_id: str, folder_path: Path) -> Any:
            uploaded["config"] = (folder_path / "config.json").read_text()
            uploaded["hash"] = load(
                folder_path, manager=toy_workshop.manager, registry=toy_workshop.registry
            ).weight_hash()
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    source = toy_integration.part_info["encoder"].source
    assert source is not None and Path(source).is_dir()
    assert push_to_hub(toy_integration, "me/toys", weights="trained") == "https://hub/commit"
    assert source not in uploaded["config"] and uploaded["hash"] == toy_integration.weight_hash()
    assert toy_integration.part_info["encoder"].source == source
