"""Checkpoints in the published Nue-ASR format (arXiv 2312.03668), loaded as they are.

One safetensors state (a single file or shards with an index) holds the encoder under
``audio_encoder.``, the bridge under ``bridge_convs.`` and ``bridge_proj.`` and the decoder under
``llm.``; ``config.json`` holds the two models' configurations and the bridge's kernel sizes and
strides; the tokenizer's files lie beside them. What the format leaves unsaid (the prompt, the
token limit, audio taken as it is at 16 kHz) is the published implementation's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import HubertModel, PretrainedConfig

from nuebridge.contracts import Bridge
from nuebridge.errors import CheckpointError
from nuebridge.hookspecs import BridgeComponent, Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.model import Integration, PartInfo
from nuebridge.plugins import PluginManager
from nuebridge.settings import GenerationSettings, PromptTemplate, TokenBudget
from nuebridge.tensors import read_json, read_weights
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.causal_models import load_causal_lm
from nuebridge_hf.loading import config_from_dict, load_model
from nuebridge_hf.tokenizers import load_tokenizer
from nuebridge_hf.wav2vec_family import MASK_EMBEDDING, HubertEncoder, fill_mask_embedding

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROMPT = PromptTemplate(prefix="<s>", suffix="[SEP]")
GENERATION = GenerationSettings(max_new_tokens=TokenBudget(per_second=4, plus=20.5), min_new_tokens=2)
_PREFIXES = ("audio_encoder.", "bridge_", "llm.")


def load_nue_asr(folder: Path, manager: PluginManager) -> Integration:
    """The integration in ``folder``, float32; its bridge is found through ``manager``. Raises CheckpointError."""
    config = read_json(folder / "config.json")
    try:
        encoder_config = config_from_dict(config["audio_encoder_config"], str(folder))
        decoder_config = config_from_dict(config["llm_config"], str(folder))
        convolutions = {
            "kernel_sizes": list(config["bridge_conv_kernel_size"]),
            "strides": list(config["bridge_conv_stride"]),
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} lacks or misstates a field of the Nue-ASR format ({error})"
        ) from error
    if encoder_config.model_type != "hubert":
        raise CheckpointError(
            f"{folder} has an encoder of type {encoder_config.model_type!r}; the format knows 'hubert'"
        )
    parts, stored_as = _read_parts(folder)
    encoder = _encoder(folder, encoder_config, parts["audio_encoder."])
    decoder = _decoder(folder, decoder_config, parts["llm."])
    bridge_ref = manager.find(BridgeComponent, "bridges.conv", distribution="nuebridge-bridges")
    bridge = bridge_ref.load().build(encoder.hidden_size, decoder.hidden_size, bridge_ref.parse_options(convolutions))
    _fill_bridge(folder, bridge, parts["bridge_"])
    integration = Integration(
        encoder,
        bridge,
        decoder,
        prompt=PROMPT,
        generation=GENERATION,
        part_info={
            "encoder": _info(manager, SpeechEncoderComponent, "hf.hubert"),
            "bridge": PartInfo(bridge_ref.id, bridge_ref.distribution, bridge_ref.version),
            "decoder": _info(manager, TextDecoderComponent, "hf.causal-lm"),
        },
    )
    integration.storage_dtype = stored_as
    return integration.eval()


def _info(manager: PluginManager, kind: type[Component], component: str) -> PartInfo:
    ref = manager.find(kind, component)
    return PartInfo(ref.id, ref.distribution, ref.version)


def _read_parts(folder: Path) -> tuple[dict[str, dict[str, Tensor]], torch.dtype | None]:
    """The state by part, and the dtype of its weights where they share one."""
    state = _read_state(folder)
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in _PREFIXES}
    for name, tensor in state.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            raise CheckpointError(f"{folder} holds {name!r}, which belongs to no part of the Nue-ASR format")
        parts[prefix][name.removeprefix(prefix)] = tensor
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return parts, dtypes.pop() if len(dtypes) == 1 else None


def _read_state(folder: Path) -> dict[str, Tensor]:
    if not (folder / INDEX).is_file():
        return read_weights(folder / WEIGHTS)
    index = read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in names.values()
    ):
        raise CheckpointError(f"{folder / INDEX} has no weight_map from weights to files beside it; copy it again")
    state: dict[str, Tensor] = {}
    for file in sorted(set(names.values())):
        state |= read_weights(folder / file)
    absent = sorted(set(names) - set(state))
    if absent:
        raise CheckpointError(f"{folder}: {INDEX} lists {absent[0]!r}, which is in no file; copy the checkpoint again")
    return state


def _encoder(folder: Path, config: PretrainedConfig, state: dict[str, Tensor]) -> HubertEncoder:
    model, missing = load_model(
        HubertModel,
        config,
        source=str(folder),
        state_dict=state,
        harmless={},
        may_miss=MASK_EMBEDDING,
        attn_implementation="sdpa",
    )
    fill_mask_embedding(model, missing, str(folder))
    return HubertEncoder(model, normalize=False)


def _decoder(folder: Path, config: PretrainedConfig, state: dict[str, Tensor]) -> CausalLm:
    model = load_causal_lm(config, source=str(folder), state_dict=state)
    # The published implementation ends a text at the tokenizer's end token, whatever the configuration says.
    return CausalLm(model, load_tokenizer(str(folder)))


def _fill_bridge(folder: Path, bridge: Bridge, state: Mapping[str, Tensor]) -> None:
    """``convs.0.weight`` and ``proj.weight`` are the names in the file and in the component alike."""
    parameters: dict[str, Any] = dict(bridge.named_parameters())
    faults = [f"bridge_{name} is missing" for name in parameters if name not in state]
    faults += [f"bridge_{name} is not expected" for name in state if name not in parameters]
    faults += [
        f"bridge_{name} has shape {list(state[name].shape)}, expected {list(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in state and state[name].shape != parameter.shape
    ]
    if faults:
        raise CheckpointError(f"the bridge of {folder} does not fit its config.json: {'; '.join(faults[:4])}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
