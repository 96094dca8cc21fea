"""fairseq2's encoders as modules: made, filled from its checkpoints, and written to and read from folders of our own.

Only the encoder is kept of a model: its front end, its layers and, where fine-tuning masks frames, the masker. Names of
weights are fairseq2's own, but for the two halves of a normalised weight, which torch calls otherwise today.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq2.device import CPU
from fairseq2.gang import create_fake_gangs
from fairseq2.model_checkpoint import ModelCheckpointLoader, ModelCheckpointLoadOptions
from fairseq2.models.transformer import RelativePositionalEncoding
from fairseq2.models.w2vbert import convert_w2vbert_state_dict
from fairseq2.models.wav2vec2 import (
    StandardWav2Vec2Masker,
    Wav2Vec2Config,
    Wav2Vec2EncoderConfig,
    Wav2Vec2EncoderFactory,
    convert_wav2vec2_state_dict,
)
from fairseq2.models.wav2vec2.asr import convert_wav2vec2_asr_state_dict
from fairseq2.nn import ColumnShardedLinear, Linear, RotaryEncoder, RowShardedLinear
from fairseq2.utils.structured import ValueConverter
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from nuebridge.errors import CheckpointError
from nuebridge.tensors import WEIGHTS_FILE, check_headers, read_json, read_weights, save_weights, write_json
from nuebridge_fairseq2.sources import Found, service, told

CONFIG_FILE = "config.json"
TABLES = (RelativePositionalEncoding, RotaryEncoder)
"""Modules that hold a table of positions which follows from the configuration and is in no checkpoint."""


def _convert_wav2vec2(state_dict: dict[str, Any], config: Wav2Vec2Config) -> dict[str, object]:
    """fairseq2's converter, helped with checkpoints of the first fairseq's base and large models.

    0.8.1 tells them by a name that they do not have, and knows their positional convolution only where it is stacked.
    """
    weights = state_dict.get("model", state_dict)
    if "mask_emb" in weights:
        weights["mask_emb.weight"] = weights["mask_emb"]
    old, new = "encoder.pos_conv.0.", "encoder_frontend.pos_encoder.conv."
    for name in ("bias", "weight_g", "weight_v"):
        if old + name in weights:
            weights[new + name] = weights.pop(old + name)
    return convert_wav2vec2_state_dict(state_dict, config)


_CONVERTERS: Mapping[str, Callable[..., dict[str, object]]] = {
    "wav2vec2": _convert_wav2vec2,
    "wav2vec2_asr": convert_wav2vec2_asr_state_dict,
    "w2vbert": convert_w2vbert_state_dict,
}
_PREFIX = {"wav2vec2": "", "wav2vec2_asr": "", "w2vbert": "w2v2_model."}
_PRE_TRAINING = ("quantizer.", "final_proj.", "final_target_proj.", "masker.")
_HARMLESS = {
    "wav2vec2": _PRE_TRAINING,
    "wav2vec2_asr": ("final_proj.", "masker."),
    "w2vbert": (*(f"w2v2_model.{name}" for name in _PRE_TRAINING), "final_bert_proj."),
}
"""Beginnings of the names of weights that are no part of the encoder: heads, and what only pre-training reads."""


@dataclass(frozen=True)
class Masking:
    """How the frames of a clip are masked in training, in the words of fairseq2's masker."""

    temporal_span_len: int
    max_temporal_mask_prob: float
    min_num_temporal_mask_spans: int
    spatial_span_len: int
    max_spatial_mask_prob: float
    min_num_spatial_mask_spans: int


@dataclass(frozen=True)
class Design:
    """All that an encoder is made of but its weights."""

    family: str
    """``wav2vec2``, ``wav2vec2_asr`` or ``w2vbert``."""
    encoder: Wav2Vec2EncoderConfig
    masking: Masking | None = None
    """None for pre-trained models: their masking is the task they were pre-trained on."""

    @classmethod
    def of(cls, found: Found) -> Design:
        """The design of a model's encoder."""
        config = found.config
        if found.family == "w2vbert":
            return cls("w2vbert", config.w2v2_config.encoder_config)
        masking = None
        if found.family == "wav2vec2_asr" and config.use_masking:
            masking = Masking(
                config.temporal_mask_span_len,
                config.max_temporal_mask_prob,
                config.min_num_temporal_mask_spans,
                config.spatial_mask_span_len,
                config.max_spatial_mask_prob,
                config.min_num_spatial_mask_spans,
            )
        return cls(found.family, config.encoder_config, masking)


class EncoderModel(nn.Module):
    """The encoder within a model of fairseq2's, under the names it has there."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        factory = Wav2Vec2EncoderFactory(design.encoder)
        self.encoder_frontend = factory.create_encoder_frontend()
        self.encoder = factory.create_encoder()
        self.masker: StandardWav2Vec2Masker | None = None
        if design.masking is not None:
            self.masker = StandardWav2Vec2Masker(design.encoder.model_dim, **asdict(design.masking))
        _use_linear_of_torch(self)
        _use_weight_norm_of_today(self)


def outline(design: Design, source: str) -> EncoderModel:
    """The model on torch's meta device. Raises CheckpointError for a design that no model can be made of."""
    if design.encoder.use_fbank and design.encoder.sample_fbank_every_k > 1:
        raise CheckpointError(f"{source!r} leaves out clips of a batch (sample_fbank_every_k), which is not supported")
    masking = design.masking
    if (
        masking is not None
        and masking.max_spatial_mask_prob > 0
        and masking.spatial_span_len >= design.encoder.model_dim
    ):
        raise CheckpointError(
            f"{source!r} masks spans of {masking.spatial_span_len} features in training, and its frames have "
            f"{design.encoder.model_dim}; correct spatial_mask_span_len in its configuration"
        )
    with told(f"no encoder can be made of the configuration of {source!r}"), torch.device("meta"):
        return EncoderModel(design)


def load_found(found: Found, *, allow_pickle: bool) -> EncoderModel:
    """The encoder of a model of fairseq2's, with its weights in float32. Raises CheckpointError."""
    model = outline(Design.of(found), found.name)
    state = read_state(found, allow_pickle=allow_pickle)
    prefix = _PREFIX[found.family]
    own = {prefix + name for name in model.state_dict()}
    harmless = _HARMLESS[found.family]
    kept = {name: tensor for name, tensor in state.items() if name in own or not name.startswith(harmless)}
    fill(model, {name.removeprefix(prefix): tensor for name, tensor in kept.items()}, found.name)
    return model


def read_state(found: Found, *, allow_pickle: bool) -> dict[str, Tensor]:
    """All weights of a model's checkpoint, under the names of fairseq2 0.8. Raises CheckpointError.

    Pickles are read with torch's restricted unpickler, whatever the model's card says.
    """
    path = found.checkpoint(allow_pickle=allow_pickle)
    options = ModelCheckpointLoadOptions(
        gangs=create_fake_gangs(CPU),
        restrict=True,
        state_dict_converter=partial(_CONVERTERS[found.family], config=found.config),
    )
    with told(f"the weights of {found.name!r} cannot be read"):
        loader = service(ModelCheckpointLoader)
        return dict(loader.lazy_load(path, {}, options))


def fill(model: EncoderModel, state: dict[str, Tensor], source: str) -> None:
    """Gives an outline its weights. Raises CheckpointError naming those that do not fit."""
    state = {_of_today(name): tensor for name, tensor in state.items()}
    expected = model.state_dict()
    faults = [f"{name} is missing" for name in expected if name not in state]
    faults += [f"{name} is not expected" for name in state if name not in expected]
    faults += [
        f"{name} has shape {list(state[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise CheckpointError(
            f"the weights of {source!r} do not fill its encoder: {'; '.join(faults[:6])}{more}; the checkpoint is "
            "damaged, or of another family or architecture"
        )
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    model.load_state_dict(weights, assign=True)
    restore_tables(model)


def _of_today(name: str) -> str:
    """The name that a part of a normalised weight has with torch's newer weight norm."""
    for number, ending in enumerate(("weight_g", "weight_v")):
        if name.endswith(f".{ending}"):
            return f"{name.removesuffix(ending)}parametrizations.weight.original{number}"
    return name


def restore_tables(module: nn.Module) -> None:
    """Computes tables of positions anew where they are not in float32, or not anywhere yet."""
    for one in module.modules():
        if isinstance(one, TABLES) and (one.freqs.is_meta or one.freqs.dtype != torch.float32):
            device = "cpu" if one.freqs.is_meta else one.freqs.device
            one.freqs = torch.empty_like(one.freqs, device=device, dtype=torch.float32)
            one.reset_non_persistent_buffers()


def _use_linear_of_torch(module: nn.Module) -> None:
    """fairseq2's linear layers compute what torch's does in one process, but peft knows torch's own only."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear | ColumnShardedLinear | RowShardedLinear):
                layer = nn.Linear(child.input_dim, child.output_dim, bias=child.bias is not None, device="meta")
                layer.weight, layer.bias = child.weight, child.bias  # type: ignore[assignment]  # None where it has none
                setattr(parent, name, layer)


def _use_weight_norm_of_today(module: nn.Module) -> None:
    """A convolution with torch's older weight norm, which fairseq2 uses, cannot be copied once it has run."""
    for one in module.modules():
        if isinstance(one, nn.Conv1d) and hasattr(one, "weight_g"):
            remove_weight_norm(one)
            weight_norm(one, dim=2)


def save_folder(model: EncoderModel, design: Design, folder: Path, model_type: str, **more: Any) -> None:
    """Writes config.json, which says all that is needed to make the model again, and safetensors weights."""
    converter = service(ValueConverter)
    data = {
        "model_type": model_type,
        "family": design.family,
        "encoder_config": converter.unstructure(design.encoder),
        "masking": None if design.masking is None else asdict(design.masking),
        **more,
    }
    save_weights(model, folder)
    write_json(folder / CONFIG_FILE, dict(sorted(data.items())))


def is_own_folder(source: str) -> bool:
    """Whether a source is a folder that :func:`save_folder` wrote, of either model."""
    path = Path(source).expanduser() / CONFIG_FILE
    if not path.is_file():
        return False
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # what is wrong with it is told when it is read
    return isinstance(data, dict) and str(data.get("model_type", "")).startswith("fairseq2-")


def read_folder(source: str, model_type: str) -> tuple[Design, dict[str, Any]]:
    """The design and the other fields of a folder. Raises CheckpointError."""
    folder = Path(source).expanduser()
    data = read_json(folder / CONFIG_FILE)
    if not isinstance(data, dict) or data.get("model_type") != model_type:
        found = data.get("model_type") if isinstance(data, dict) else None
        raise CheckpointError(f"{source!r} holds a {found!r}, not a {model_type!r}")
    with told(f"{folder / CONFIG_FILE} does not say what it should"):
        converter = service(ValueConverter)
        encoder = converter.structure(data["encoder_config"], Wav2Vec2EncoderConfig)
        masking = None if data["masking"] is None else Masking(**data["masking"])
        return Design(data["family"], encoder, masking), data


def load_folder(design: Design, source: str) -> EncoderModel:
    """The model that :func:`save_folder` wrote. Raises CheckpointError."""
    folder = Path(source).expanduser()
    check_headers(folder)
    model = outline(design, source)
    fill(model, read_weights(folder / WEIGHTS_FILE), source)
    return model
