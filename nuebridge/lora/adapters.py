"""The adapters of an integration: adding, weighing, taking off, merging.

LoRA stays in the parts as layers, weighed where it works. What an adapter retrained (bridge, CTC head) is kept here:
the part's own parameters hold the sum, base + weight * (adapted - base) over the active adapters, and are what
training changes while one adapter is active alone with weight 1, or none.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nuebridge.contracts import Part
from nuebridge.errors import ConfigError
from nuebridge.lora import layers
from nuebridge.lora.layers import lora_parameters, without_lora
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings
from nuebridge.tensors import add_to_hash, weight_hash

RETRAINED = ("ctc_head", "bridge")
"""Parts that are small enough for an adapter to hold them whole."""
WITH_LORA = ("encoder", "decoder")

State = dict[str, Tensor]


@dataclass
class Adapter:
    """What an integration knows of one of its adapters."""

    name: str
    weight: float = 1.0
    """What it changes is multiplied by this; 0 = not active."""
    lora: dict[str, LoraSettings] = field(default_factory=dict)
    """By part; the modules it was put into are spelled out."""
    states: dict[str, State] = field(default_factory=dict)
    """Weights of the parts it retrained, by part. While it is active alone with weight 1, the part holds newer ones."""
    training: list[dict[str, Any]] = field(default_factory=list)
    """How it was trained: one entry a training run, as ``Integration.training_history``."""
    error_rates: Any = None
    """What was measured of it, JSON-ready; None where nothing was."""

    @property
    def parts(self) -> list[str]:
        """The parts it changes, in the order of the flow."""
        changed = {*self.lora, *self.states}
        return [name for name in ("encoder", "ctc_head", "bridge", "decoder") if name in changed]


def add_lora(
    integration: Integration, part: str, settings: LoraSettings, *, name: str = "lora", seed: int = 0
) -> list[torch.nn.Parameter]:
    """Puts LoRA into the encoder or the decoder, for an adapter that is made where there is none of that name.

    It changes nothing until it is trained, and is drawn from ``seed``. Which of the part's own weights are trainable
    stays as it was; the new ones, which are returned, are trainable and float32. The adapter is active. Raises
    ConfigError for a part without LoRA, one that has LoRA of that name, layers that are not there, and missing peft.
    """
    check_name(name)
    if part not in WITH_LORA:
        raise ConfigError(
            f"{part} takes no LoRA; {' and '.join(WITH_LORA)} do, and a bridge or CTC head is trained whole"
        )
    adapter = integration.adapters.get(name)
    if adapter is not None and part in adapter.lora:
        raise ConfigError(f"the {part} has LoRA of the adapter {name!r} already; choose another name")
    module = integration.parts[part]
    capture(integration)
    _inject(integration, part, name, settings, seed)
    adapter = adapter or integration.adapters.setdefault(name, Adapter(name))
    adapter.lora[part] = _spelled_out(module, name, settings)
    _apply(integration)
    return lora_parameters(module, name)


def retrain(integration: Integration, part: str, *, name: str = "lora") -> None:
    """Makes the bridge or the CTC head a part of an adapter: what it learns from now on is the adapter's.

    The weights it has now are kept as the base's. The adapter is made where there is none of that name; a part that
    it has already is left as it is. Raises ConfigError for other parts, and where the part does not hold the
    adapter's weights alone.
    """
    check_name(name)
    if part not in RETRAINED or part not in integration.parts:
        there = [one for one in RETRAINED if one in integration.parts]
        raise ConfigError(
            f"an adapter cannot hold the {part} whole; of this integration it can hold {', '.join(there)}"
        )
    adapter = integration.adapters.get(name)
    capture(integration)
    others = [a.name for a in integration.adapters.values() if a.weight and part in a.states and a is not adapter]
    if others or (adapter is not None and adapter.weight != 1.0):
        raise ConfigError(
            f"the {part} cannot be trained for the adapter {name!r} while it is not active alone with weight 1 "
            f"(active as well: {', '.join(others) or 'none'}); set_adapters(integration, {{{name!r}: 1.0}}) first"
        )
    if adapter is None:
        adapter = integration.adapters.setdefault(name, Adapter(name))
    if part not in adapter.states:
        live = _state(integration.parts[part])
        integration.base_states.setdefault(part, live)
        adapter.states[part] = {key: tensor.float() for key, tensor in live.items()}


def set_adapters(integration: Integration, weights: Mapping[str, float]) -> None:
    """Makes these adapters active, each times its weight, and the others inactive; none at all gives the base exactly.

    Several add up. Raises ConfigError for an unknown name or a weight that is no finite number.
    """
    for name, weight in weights.items():
        known(integration, name)
        check_weight(name, weight)
    capture(integration)
    for name, adapter in integration.adapters.items():
        adapter.weight = float(weights.get(name, 0.0))
    _apply(integration)


def remove_adapter(integration: Integration, name: str) -> None:
    """Takes an adapter off; what it holds is lost unless it was saved. Raises ConfigError for an unknown name."""
    adapter = known(integration, name)
    capture(integration)
    del integration.adapters[name]
    for part in adapter.lora:
        layers.remove(integration.parts[part], name)
    _apply(integration)
    for part in adapter.states:
        if not any(part in other.states for other in integration.adapters.values()):
            del integration.base_states[part]


def merge(integration: Integration) -> list[str]:
    """Bakes the active adapters into the weights and drops the others; returns the names of the baked ones.

    The integration's training history goes on with theirs. Raises ConfigError where a layer with LoRA shares its
    weights with another module, and NumericalError for weights that are not finite; nothing is changed then.
    """
    active = [adapter for adapter in integration.adapters.values() if adapter.weight]
    touched = list(dict.fromkeys(part for adapter in active for part in adapter.lora))
    for part in touched:  # before the first is changed
        layers.check_bakeable(integration.parts[part])
    for part in dict.fromkeys(part for adapter in integration.adapters.values() for part in adapter.lora):
        layers.bake(integration.parts[part])
    for adapter in active:
        integration.training_history.append({"adapter": adapter.name, "weight": adapter.weight, "parts": adapter.parts})
        integration.training_history.extend(adapter.training)
    integration.adapters.clear()
    integration.base_states.clear()
    return [adapter.name for adapter in active]


@contextmanager
def base_weights(integration: Integration) -> Iterator[None]:
    """Within the block the integration has the weights it has without adapters; afterwards all is as it was."""
    if not integration.adapters:
        yield
        return
    capture(integration)
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for name, base in integration.base_states.items():
            for key, tensor in integration.parts[name].state_dict(keep_vars=True).items():
                kept.append((tensor, tensor.data))
                tensor.data = base[key].to(tensor.device, tensor.dtype)
        with without_lora(*integration.parts.values()):
            yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def weight_hash_with_adapters(integration: Integration) -> str:
    """The hash of an integration's weights: the base's alone where no adapter is active, else one of the base's hash
    and of each active adapter's hash and weight."""
    with base_weights(integration):
        base = weight_hash(integration.parts)
    active = sorted((adapter_hash(integration, a), a.weight) for a in integration.adapters.values() if a.weight)
    if not active:
        return base
    return hashlib.sha256("\n".join([base, *(f"{one} {weight!r}" for one, weight in active)]).encode()).hexdigest()


def adapter_hash(integration: Integration, adapter: Adapter) -> str:
    """SHA-256 (hex) over what an adapter does with weight 1, whatever its name."""
    capture(integration)
    digest = hashlib.sha256()
    for part, settings in sorted(adapter.lora.items()):
        digest.update(f"{part} {settings.lora_alpha / settings.r!r}".encode())
        _add_state(digest, layers.read_state(integration.parts[part], adapter.name))
    for part, state in sorted(adapter.states.items()):
        digest.update(part.encode())
        _add_state(digest, state)
    return digest.hexdigest()


def to_dtype(integration: Integration, dtype: torch.dtype) -> None:
    """Holds an integration in another precision; LoRA stays float32."""
    with without_lora(*integration.parts.values()):
        integration.to(dtype=dtype)


def capture(integration: Integration) -> None:
    """Takes note of what training did to the parts that adapters hold whole.

    Raises ConfigError where they were changed while several adapters, or one with another weight than 1, were active.
    """
    for part in integration.base_states:
        owners = [a for a in integration.adapters.values() if a.weight and part in a.states]
        now, noted = _state(integration.parts[part]), _mixed(integration, part)
        if all(torch.equal(now[key], noted[key].to(now[key].device, now[key].dtype)) for key in now):
            continue
        if not owners:
            integration.base_states[part] = now
        elif len(owners) == 1 and owners[0].weight == 1.0:
            owners[0].states[part] = {key: tensor.float() for key, tensor in now.items()}
        else:
            names = ", ".join(f"{adapter.name} {adapter.weight:g}" for adapter in owners)
            raise ConfigError(
                f"the weights of the {part} were changed while they are a sum of adapters ({names}) and belong to no "
                "one of them; activate one alone with weight 1 before training it"
            )


def check_weight(name: str, weight: float) -> None:
    """Raises ConfigError for a weight that is no finite number."""
    if not math.isfinite(weight):
        raise ConfigError(f"the weight of the adapter {name!r} is {weight}; give a number (1 = as it was trained)")


def check_name(name: str) -> None:
    """Raises ConfigError for a name that cannot be a folder's everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ConfigError(f"{name!r} cannot name an adapter; use up to 64 letters, digits, hyphens and underscores")


def load_lora(
    integration: Integration, part: str, name: str, settings: LoraSettings, state: State, where: object
) -> None:
    """Puts trained LoRA into a part, not trainable. Raises CheckpointError for weights that do not fit, ConfigError."""
    module = integration.parts[part]
    _inject(integration, part, name, settings, seed=0)
    for parameter in lora_parameters(module, name):
        parameter.requires_grad_(False)
    layers.write_state(module, name, state, where)


def register(integration: Integration, adapter: Adapter) -> None:
    """Takes up an adapter whose LoRA is in place, and activates it with its weight beside those that are active."""
    capture(integration)
    for part in adapter.states:
        integration.base_states.setdefault(part, _state(integration.parts[part]))
    integration.adapters[adapter.name] = adapter
    _apply(integration)


def _inject(integration: Integration, part: str, name: str, settings: LoraSettings, seed: int) -> None:
    info = integration.part_info.get(part)
    layers.inject(integration.parts[part], name, settings, seed=seed, source=None if info is None else info.source)


def _spelled_out(part: Part, name: str, settings: LoraSettings) -> LoraSettings:
    chosen = layers.targets(part, name)
    return settings if isinstance(chosen, str) else settings.model_copy(update={"target_modules": chosen})


def known(integration: Integration, name: str) -> Adapter:
    """The adapter of that name. Raises ConfigError where there is none."""
    if name not in integration.adapters:
        there = ", ".join(integration.adapters) or "none"
        raise ConfigError(f"there is no adapter {name!r}; this integration has: {there}")
    return integration.adapters[name]


def _apply(integration: Integration) -> None:
    weights = {name: adapter.weight for name, adapter in integration.adapters.items() if adapter.weight}
    for part in WITH_LORA:
        layers.activate(integration.parts[part], weights)
    for part in integration.base_states:
        for key, tensor in integration.parts[part].state_dict(keep_vars=True).items():
            with torch.no_grad():
                tensor.copy_(_mixed(integration, part)[key])


def _mixed(integration: Integration, part: str) -> State:
    """What a part holds: the base, or the sum of what the active adapters make of it."""
    base = integration.base_states[part]
    active = [(a.weight, a.states[part]) for a in integration.adapters.values() if a.weight and part in a.states]
    if not active:
        return base
    if len(active) == 1 and active[0][0] == 1.0:
        return active[0][1]
    return {key: _sum(tensor, [(weight, state[key]) for weight, state in active]) for key, tensor in base.items()}


def _sum(base: Tensor, adapted: Iterable[tuple[float, Tensor]]) -> Tensor:
    start = base.float()
    total = start.clone()
    for weight, tensor in adapted:
        total += weight * (tensor.to(start.device) - start)
    return total


def _state(part: Part) -> State:
    return {key: tensor.detach().clone() for key, tensor in part.state_dict().items()}


def _add_state(digest: hashlib._Hash, state: State) -> None:
    for _, tensor in sorted(state.items()):  # without the names, which differ between releases of model libraries
        add_to_hash(digest, tensor)
