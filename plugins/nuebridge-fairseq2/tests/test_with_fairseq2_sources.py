"""What a source may be: asset names, folders and files of cards, plain checkpoints old and new; what is refused."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nuebridge.errors import CheckpointError
from nuebridge.tensors import save_weights, weight_hash
from nuebridge_fairseq2.encoders import Fairseq2Encoder, W2vBertEncoder, Wav2Vec2Encoder
from nuebridge_fairseq2.examples import CARDS, make_model, write, write_card
from nuebridge_fairseq2.loading import Design
from nuebridge_fairseq2.omnilingual import ARCHITECTURES
from nuebridge_fairseq2.options import W2vBertOptions, Wav2Vec2Options
from nuebridge_fairseq2.sources import find

BOTH = ("wav2vec2", "wav2vec2_asr")


def hash_of(encoder: Fairseq2Encoder) -> str:
    return weight_hash({"part": encoder})


def plain_options(name: str, **more: Any) -> Any:
    """The layout of a tiny model, as options of a plain checkpoint."""
    card = CARDS[name]
    given: dict[str, Any] = {"arch": card["model_arch"], "config": card["model_config"], **more}
    if name == "w2v-bert":
        return W2vBertOptions(**given)
    return Wav2Vec2Options(family=card["model_family"], **given)


def load(name: str, source: Path | str, options: Any) -> Fairseq2Encoder:
    return (W2vBertEncoder if name == "w2v-bert" else Wav2Vec2Encoder).load(str(source), options)


@pytest.fixture(params=["base", "large-lv60k", "fine-tuned", "w2v-bert"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def expected(name: str, tmp_path: Path) -> str:
    folder = tmp_path / "expected"
    folder.mkdir()
    write(folder, CARDS[name])
    return hash_of(load(name, folder, W2vBertOptions() if name == "w2v-bert" else Wav2Vec2Options()))


def test_plain_checkpoints_are_read_where_pickles_are_allowed(name: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save({"model": make_model(CARDS[name]).state_dict()}, file)
    with pytest.raises(CheckpointError, match=r"pickle \(model.pt\); set the option allow_pickle: true"):
        load(name, file, plain_options(name))
    assert hash_of(load(name, file, plain_options(name, allow_pickle=True))) == expected


def test_plain_safetensors_need_no_permission(name: str, expected: str, tmp_path: Path) -> None:
    save_weights(make_model(CARDS[name]), tmp_path)
    assert hash_of(load(name, tmp_path / "model.safetensors", plain_options(name))) == expected


def in_names_of_fairseq(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as the first fairseq named them."""
    names = {
        r"^w2v2_model\.": "",
        r"^encoder_frontend\.feature_extractor\.layers\.(\d+)\.conv\.": r"feature_extractor.conv_layers.\1.0.",
        r"^encoder_frontend\.feature_extractor\.layers\.(\d+)\.layer_norm\.": r"feature_extractor.conv_layers.\1.2.1.",
        r"^encoder_frontend\.feature_extractor\.layers\.0\.group_norm\.": r"feature_extractor.conv_layers.0.2.",
        r"^encoder_frontend\.pos_encoder\.conv\.": r"encoder.pos_conv.0.",
        r"^encoder_frontend\.post_extract_layer_norm\.": "layer_norm.",
        r"^encoder_frontend\.model_dim_proj\.": "post_extract_proj.",
        r"^encoder_frontend\.layer_norm\.": "encoder.layer_norm.",
        r"^masker\.temporal_mask_embed": "mask_emb",
        r"^quantizer\.entries": "quantizer.vars",
        r"^quantizer\.entry_proj\.": "quantizer.weight_proj.",
        r"^final_target_proj\.": "project_q.",
        r"\.self_attn\.output_proj\.": r".self_attn.out_proj.",
        r"\.ffn\.inner_proj\.": ".fc1.",
        r"\.ffn\.output_proj\.": ".fc2.",
        r"\.ffn_layer_norm\.": ".final_layer_norm.",
    }
    if name == "w2v-bert":
        names |= {
            r"^final_bert_proj\.": "mlm_proj.",
            r"\.conv\.": ".conv_module.",
            r"\.conv_layer_norm\.": ".conv_module.layer_norm.",
            r"\.ffn(1|2)_layer_norm\.": r".ffn\1.layer_norm.",
            r"\.ffn(1|2)\.inner_proj\.": r".ffn\1.w_1.",
            r"\.ffn(1|2)\.output_proj\.": r".ffn\1.w_2.",
            r"\.self_attn\.(q|k|v)_proj\.": r".self_attn.linear_\1.",
            r"\.self_attn\.out_proj\.": ".self_attn.linear_out.",
            r"\.self_attn\.sdpa\.r_proj\.": ".self_attn.linear_pos.",
            r"\.self_attn\.sdpa\.(u|v)_bias": r".self_attn.pos_bias_\1",
            r"^(encoder\.layers\.\d+)\.layer_norm\.": r"\1.final_layer_norm.",
        }
    old = {}
    for key, tensor in state.items():
        if key.endswith("quantizer.num_updates"):
            continue
        for pattern, other in names.items():
            key = re.sub(pattern, other, key)
        if name == "fine-tuned":
            key = f"w2v_encoder.w2v_model.{key}"
            key = key.replace("w2v_encoder.w2v_model.final_proj.", "w2v_encoder.proj.")
        old[key] = tensor
    return old | {"encoder.version": torch.tensor([3.0])}


def test_checkpoints_of_the_first_fairseq_are_read(name: str, expected: str, tmp_path: Path) -> None:
    state = in_names_of_fairseq(name, make_model(CARDS[name]).state_dict())
    assert not any(key.startswith(("encoder_frontend", "w2v2_model")) for key in state)
    torch.save({"model": state}, tmp_path / "old.pt")
    assert hash_of(load(name, tmp_path / "old.pt", plain_options(name, allow_pickle=True))) == expected


def test_a_weight_that_is_missing_or_too_many_is_told(name: str, tmp_path: Path) -> None:
    prefix = "w2v2_model." if name == "w2v-bert" else ""
    state = make_model(CARDS[name]).state_dict()
    one = f"{prefix}encoder.layers.1.self_attn.q_proj.weight"
    for change, words in (
        ({one: None}, r"encoder\.layers\.1\.self_attn\.q_proj\.weight is missing"),
        ({f"{prefix}encoder.layers.2.extra": torch.zeros(1)}, "encoder.layers.2.extra is not expected"),
        ({one: torch.zeros(3, 3)}, r"has shape \[3, 3\], expected \[16, 16\]"),
    ):
        changed = {key: tensor for key, tensor in (state | change).items() if tensor is not None}
        torch.save({"model": changed}, tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match=words):
            load(name, tmp_path / "model.pt", plain_options(name, allow_pickle=True))


def test_a_pickle_of_more_than_tensors_is_refused_even_when_allowed(tmp_path: Path) -> None:
    state = make_model(CARDS["base"]).state_dict()
    torch.save({"model": state, "args": argparse.Namespace(arch="wav2vec2")}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        load("base", tmp_path / "model.pt", plain_options("base", allow_pickle=True))
    assert "\n" not in str(error.value)


def test_a_card_cannot_lift_the_restriction(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": argparse.Namespace()}, tmp_path / "model.pt")
    write_card(tmp_path, {"name": "unsafe", **CARDS["base"], "checkpoint": "model.pt", "restrict": False})
    with pytest.raises(CheckpointError, match="cannot be read"):
        Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options(allow_pickle=True))


def test_a_folder_of_several_cards_needs_a_choice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = hash_of_written(tmp_path / "a", "first", 1)
    second = hash_of_written(tmp_path / "b", "second", 2)
    with pytest.raises(CheckpointError, match="several; set the option card to one of: first, second"):
        Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options())
    with pytest.raises(CheckpointError, match="none called 'third'"):
        Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options(card="third"))
    for card, expected in (("first", first), ("second", second)):
        assert hash_of(Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options(card=card))) == expected
    assert hash_of(Wav2Vec2Encoder.load(str(tmp_path / "b" / "second.yaml"), Wav2Vec2Options())) == second
    assert first != second


def hash_of_written(folder: Path, name: str, seed: int) -> str:
    write(folder, CARDS["base"], name=name, seed=seed)
    return hash_of(Wav2Vec2Encoder.load(str(folder), Wav2Vec2Options()))


def test_a_card_may_inherit_from_the_assets_of_fairseq2(tmp_path: Path) -> None:
    tiny = CARDS["large-lv60k"]
    save_weights(make_model(tiny), tmp_path)
    heir = {"name": "mine", "base": "wav2vec2_large_lv60k", "model_config": tiny["model_config"]}
    write_card(tmp_path, {**heir, "checkpoint": "model.safetensors"})
    encoder = Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options())
    assert encoder.hidden_size == 16 and encoder.normalize


@pytest.mark.parametrize(
    ("asset", "width", "layers", "normalize"),
    [
        ("wav2vec2_base", 768, 12, False),
        ("wav2vec2_large_lv60k", 1024, 24, True),
        ("wav2vec2_asr_base_10h", 768, 12, False),
        ("omniASR_W2V_300M", 1024, 24, True),
        ("omniASR_CTC_300M_v2", 1024, 24, True),
    ],
)
def test_asset_names_are_known_before_anything_is_downloaded(
    asset: str, width: int, layers: int, normalize: bool
) -> None:
    outline = Wav2Vec2Encoder.outline(asset, Wav2Vec2Options())
    assert (outline.hidden_size, len(outline.model.encoder.layers), outline.normalize) == (width, layers, normalize)
    assert all(parameter.is_meta for parameter in outline.parameters())
    assert outline.frame_rate == 50.0
    with pytest.raises(CheckpointError, match="set the option allow_pickle"):
        Wav2Vec2Encoder.load(asset, Wav2Vec2Options())


def test_the_sizes_of_omnilingual_encoders() -> None:
    """Their names say how many parameters they have."""
    for family, known in ARCHITECTURES.items():
        for arch in known:
            options = Wav2Vec2Options(family=family, arch=arch)
            found = find(str(Path(__file__)), options, family, BOTH)
            config = Design.of(found).encoder
            size = arch.removesuffix("_v2")
            layer = 4 * config.model_dim**2 + 2 * config.model_dim * config.ffn_inner_dim
            billions = {"300m": 0.3, "1b": 1.0, "3b": 3.0, "7b": 6.5}[size]
            assert config.num_encoder_layers * layer / 1e9 == pytest.approx(billions, rel=0.1)
            assert config.norm_order.name == "PRE" and config.feature_extractor_layer_norm_convs
            if family == "wav2vec2_asr":
                assert found.config.target_vocab_size == (10_288 if arch.endswith("_v2") else 9_812)
                assert Design.of(found).masking is None


def test_an_unreachable_checkpoint_is_one_line(tmp_path: Path) -> None:
    write_card(tmp_path, {"name": "far", **CARDS["base"], "checkpoint": "http://127.0.0.1:9/far.safetensors"})
    with pytest.raises(CheckpointError, match="cannot be had") as error:
        Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no_such_asset", "knows no asset 'no_such_asset'.*known: .*omniASR_W2V_1B.*wav2vec2_base"),
        ("./nowhere", "there is no checkpoint"),
        ("nowhere.pt", "there is no checkpoint"),
        ("nowhere.yaml", "there is no file"),
        ("w2vbert_or_so", "knows no asset"),
    ],
)
def test_a_source_that_is_not_there_is_told(source: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        Wav2Vec2Encoder.load(source, Wav2Vec2Options())


def test_a_checkpoint_without_a_layout_says_what_to_set(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    for source in (tmp_path, tmp_path / "model.pt"):
        with pytest.raises(CheckpointError, match="set the options family and arch"):
            Wav2Vec2Encoder.load(str(source), Wav2Vec2Options())
    with pytest.raises(CheckpointError, match="set the options arch, or"):
        W2vBertEncoder.load(str(tmp_path), W2vBertOptions())


def test_what_a_card_misstates_is_told(tmp_path: Path) -> None:
    for change, words in (
        ({"model_arch": "enormous"}, "unknown architecture 'enormous' of wav2vec2; known: .*1b.*base.*large_lv60k"),
        ({"model_family": "w2vbert", "model_arch": "300m"}, "no card of a model of the family"),
        ({"model_config": {"encoder_config": {"widht": 3}}}, "widht"),
        ({"checkpoint": "gone.safetensors"}, "which is not there"),
    ):
        write_card(tmp_path, {"name": "mine", **CARDS["base"], "checkpoint": "model.safetensors", **change})
        with pytest.raises(CheckpointError, match=words):
            Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options())


def test_damaged_weights_are_told(tmp_path: Path) -> None:
    write(tmp_path, CARDS["base"])
    saved = tmp_path / "saved"
    saved.mkdir()
    encoder = Wav2Vec2Encoder.load(str(tmp_path), Wav2Vec2Options())
    encoder.save(saved)
    for folder in (tmp_path, saved):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(CheckpointError):
            Wav2Vec2Encoder.load(str(folder), Wav2Vec2Options())


def test_a_saved_encoder_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path, CARDS["w2v-bert"])
    saved = tmp_path / "saved"
    saved.mkdir()
    W2vBertEncoder.load(str(tmp_path), W2vBertOptions()).save(saved)
    with pytest.raises(CheckpointError, match="holds a 'fairseq2-w2v-bert', not a 'fairseq2-wav2vec2'"):
        Wav2Vec2Encoder.load(str(saved), Wav2Vec2Options())
