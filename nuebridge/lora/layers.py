"""LoRA layers in a part: peft puts them beside the part's own layers, weighs them and takes them off.

peft is used through its functions for models that are not its own (``inject_adapter_in_model``,
``get_peft_model_state_dict``, ``set_peft_model_state_dict``) and through its layers.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nuebridge.contracts import Part, TextDecoder
from nuebridge.errors import CheckpointError, ConfigError, NumericalError
from nuebridge.settings import LoraSettings

PREFIX = "base_model.model."
"""Before the names of weights in peft's files: the way through the two modules that peft wraps a model in."""


def require_peft() -> ModuleType:
    """The library. Raises ConfigError with what to install."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f'LoRA needs the library peft ({error}): run `pip install "nuebridge[lora]"`') from error
    module: ModuleType = peft
    return module


def lora_parameters(part: Part, name: str | None = None) -> list[nn.Parameter]:
    """The LoRA weights of a part, those of one adapter or all, in the order of its layers; float32."""
    wanted = None if name is None else _inner(name)
    return [
        parameter
        for layer in _layers(part)
        for held in (layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B)
        for key in held
        if wanted in (None, key)
        for parameter in ([held[key]] if isinstance(held[key], nn.Parameter) else held[key].parameters())
    ]


@contextmanager
def without_lora(*parts: Part) -> Iterator[None]:
    """Within the block the parts have their own layers only, the very same objects; afterwards all is back in place."""
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for part in parts:
            for parent, name, layer in list(_places(part)):
                swapped.append((parent, name, layer))
                setattr(parent, name, layer.base_layer)
        yield
    finally:
        for parent, name, layer in reversed(swapped):
            setattr(parent, name, layer)


def inject(part: Part, name: str, settings: LoraSettings, *, seed: int = 0, source: str | None = None) -> None:
    """Adds LoRA that changes nothing yet, drawn from ``seed``, trainable, float32 whatever the part is held in.

    What of the part's own weights is trainable stays as it was. Raises ConfigError where a layer that is asked for
    is not there or takes no LoRA, or peft is not installed; the part is then as it was.
    """
    peft = require_peft()
    module = part.adapted_module
    trainable = {id(parameter): parameter.requires_grad for parameter in module.parameters()}
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=_targets(part, settings),
        task_type=_task_type(part),
        base_model_name_or_path=source,
    )
    try:
        # Made on the CPU and moved from there: one seed gives the same weights on every device.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.filterwarnings("ignore", message=r"(Already found a `peft_config`|fan_in_fan_out|.*tie)")
            peft.inject_adapter_in_model(config, module, adapter_name=_inner(name))
        _check_not_fused(part)
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        remove(part, name)
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{type(part).__name__} takes no LoRA this way ({reason}); choose its layers with target_modules"
        ) from error
    finally:
        for parameter in module.parameters():
            parameter.requires_grad_(trainable.get(id(parameter), True))
    for layer in _layers(part):
        layer.train(layer.base_layer.training)
    _to_float32(part, name)


def remove(part: Part, name: str) -> None:
    """Takes the LoRA of one adapter off; layers that have no other become the part's own again."""
    inner = _inner(name)
    for parent, child, layer in list(_places(part)):
        others = [other for other in _names(layer) if other != inner]
        if not others:
            setattr(parent, child, layer.base_layer)
        elif inner in _names(layer):
            _choose(layer, [other for other in layer.active_adapters if other != inner])
            layer.delete_adapter(inner)
    module: Any = part.adapted_module
    configs = getattr(module, "peft_config", None)
    if configs is not None:
        configs.pop(inner, None)
        if not configs:
            del module.peft_config


def activate(part: Part, weights: Mapping[str, float]) -> None:
    """Has the LoRA of these adapters work, each times its weight, and no other. Keeps what is trainable."""
    for layer in _layers(part):
        present = _names(layer)
        _choose(layer, [_inner(name) for name in weights if _inner(name) in present])
        for name, weight in weights.items():
            layer.set_scale(_inner(name), weight)


def bake(part: Part) -> None:
    """Adds what the active LoRA does to the part's own weights, and takes all LoRA off; see ``check_bakeable``."""
    for parent, name, layer in list(_places(part)):
        if layer.active_adapters:
            layer.merge(safe_merge=True, adapter_names=layer.active_adapters)
        setattr(parent, name, layer.base_layer)
    if hasattr(part.adapted_module, "peft_config"):
        del part.adapted_module.peft_config


def check_bakeable(part: Part) -> None:
    """Raises ConfigError where active LoRA is beside a weight that a module without LoRA shares, NumericalError where
    it is not finite."""
    active = [layer for layer in _layers(part) if layer.active_adapters]
    if active and part.frozen_because is not None:
        raise ConfigError(
            f"LoRA cannot be merged into {type(part).__name__}: {part.frozen_because}; keep the adapter beside it"
        )
    _check_not_shared(part, active)
    if not all(bool(torch.isfinite(parameter).all()) for layer in active for parameter in layer.parameters()):
        raise NumericalError(f"the weights of {type(part).__name__} and its LoRA are not all finite; train it anew")


def read_state(part: Part, name: str) -> dict[str, Tensor]:
    """The LoRA weights of an adapter on the CPU, by the names that peft gives them in its files."""
    state = require_peft().get_peft_model_state_dict(
        part.adapted_module, adapter_name=_inner(name), save_embedding_layers=False
    )
    return {f"{PREFIX}{key}": tensor.detach().cpu().float().contiguous() for key, tensor in sorted(state.items())}


def write_state(part: Part, name: str, state: Mapping[str, Tensor], where: object) -> None:
    """Fills in what :func:`read_state` gave. Raises CheckpointError naming ``where`` for what does not fit."""
    expected = read_state(part, name)
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is not expected" for key in state if key not in expected]
    faults += [
        f"{key} has shape {list(state[key].shape)}, expected {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if faults:
        raise CheckpointError(f"{where} does not fit {type(part).__name__}: {'; '.join(faults[:8])}")
    plain = {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
    require_peft().set_peft_model_state_dict(part.adapted_module, plain, adapter_name=_inner(name))


def describe(part: Part, name: str) -> dict[str, Any]:
    """The contents of peft's adapter_config.json, always in the same order."""
    module: Any = part.adapted_module
    config = {**module.peft_config[_inner(name)].to_dict(), "inference_mode": True}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(config.items())}


def targets(part: Part, name: str) -> tuple[str, ...] | str:
    """The modules that an adapter's LoRA was put beside, as peft notes them."""
    chosen = describe(part, name)["target_modules"]
    return chosen if isinstance(chosen, str) else tuple(chosen)


def _inner(name: str) -> str:
    """An adapter's name within peft, which takes some words (``lora``) for parts of names of weights."""
    return f"nue_{name}"


def _layers(part: Part) -> Iterator[Any]:
    return (layer for _, _, layer in _places(part))


def _places(part: Part) -> Iterator[tuple[nn.Module, str, Any]]:
    """The LoRA layers of a part, each with its parent and its name there."""
    library: Any = sys.modules.get("peft.tuners.lora")
    if library is None:  # then nobody has added any, and there is no need to wait for it
        return
    for parent in part.modules():
        for name, child in parent.named_children():
            if isinstance(child, library.LoraLayer):
                yield parent, name, child


def _names(layer: Any) -> set[str]:
    return {*layer.lora_A, *layer.lora_embedding_A}


def _choose(layer: Any, names: list[str]) -> None:
    """``set_adapter`` freezes and unfreezes; what is trained is decided elsewhere."""
    trainable = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
    layer.set_adapter(names)
    for parameter, flag in trainable:
        parameter.requires_grad_(flag)


def _targets(part: Part, settings: LoraSettings) -> list[str] | str:
    chosen = part.target_modules if settings.target_modules is None else settings.target_modules
    if not isinstance(chosen, str):
        return list(chosen)
    # peft tells an output head from other layers in the models of one library only; any other part names its own.
    if chosen != "all-linear" or hasattr(part.adapted_module, "get_output_embeddings"):
        return chosen
    with without_lora(part):
        module = part.adapted_module
        fused = tuple(name for name, child in module.named_modules() if isinstance(child, nn.MultiheadAttention))
        linear = [name for name, child in module.named_modules() if isinstance(child, nn.Linear) and name]
        # Its linear layer is never called: torch's fused attention reads the weights past it.
        names = [name for name in linear if not name.startswith(tuple(f"{one}." for one in fused))]
    if not names:
        raise ConfigError(f"{type(part).__name__} has no linear layers for LoRA; name other layers in target_modules")
    return names


def _check_not_fused(part: Part) -> None:
    for parent, name, layer in _places(part):
        if isinstance(parent, nn.MultiheadAttention) or isinstance(layer.base_layer, nn.MultiheadAttention):
            raise ValueError(f"{name!r} is or is within torch's fused attention, which reads weights past LoRA")


def _task_type(part: Part) -> str | None:
    fits = isinstance(part, TextDecoder) and hasattr(part.adapted_module, "prepare_inputs_for_generation")
    return "CAUSAL_LM" if fits else None


def _to_float32(part: Part, name: str) -> None:
    """peft gives LoRA the precision of the layer beside it; small updates would be lost in bfloat16."""
    for parameter in lora_parameters(part, name):
        parameter.data = parameter.data.float()


def _check_not_shared(part: Part, layers: Sequence[Any]) -> None:
    adapted = {id(layer.base_layer) for layer in layers}
    weights = {id(parameter) for layer in layers for parameter in layer.base_layer.parameters(recurse=False)}
    with without_lora(part):
        for module_name, module in part.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in weights and id(module) not in adapted:
                    raise ConfigError(
                        f"a layer with LoRA shares its weights with {module_name}.{name} of {type(part).__name__}, "
                        "which has none: merging would change both. Keep the adapter beside the model, or train it "
                        "with target_modules that leave out the tied layer"
                    )
