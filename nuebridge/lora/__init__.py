"""Adapters: small changes of an integration that are added to it, weighed, taken off and baked in.

An adapter has a name and changes any of the parts: the encoder and the decoder by LoRA beside their frozen
weights (Hu et al., arXiv 2106.09685, through peft), the bridge and the CTC head by weights of their own. What
an integration has is in ``integration.adapters``, by name. An adapter with weight 0 changes nothing.

    add_lora(integration, "decoder", LoraSettings(r=8), name="numbers", seed=1)   # fresh, of weight 1
    retrain(integration, "bridge", name="numbers")         # what the bridge learns from now on is the adapter's
    lora_parameters(integration.decoder, "numbers")        # float32, to be given to an optimiser
    with without_lora(integration.decoder): ...            # parameter_groups(), save() as if there were none
    with base_weights(integration): ...                    # the whole integration as it is without adapters
    set_adapters(integration, {"numbers": 0.5, "names": 1.0})   # several: the sum of what each changes
    save_adapter(integration, "numbers", folder)           # a few MB; load_adapter(integration, folder)
    merge(integration)                                     # bakes what is active into the weights

peft is imported when LoRA is first added or loaded, and nowhere else.
"""

from __future__ import annotations

from nuebridge.lora.adapters import (
    Adapter,
    add_lora,
    base_weights,
    merge,
    remove_adapter,
    retrain,
    set_adapters,
    to_dtype,
    weight_hash_with_adapters,
)
from nuebridge.lora.layers import lora_parameters, require_peft, without_lora
from nuebridge.lora.storage import SavedAdapter, check_adapter_target, load_adapter, read_adapter, save_adapter

__all__ = [
    "Adapter",
    "SavedAdapter",
    "add_lora",
    "base_weights",
    "check_adapter_target",
    "load_adapter",
    "lora_parameters",
    "merge",
    "read_adapter",
    "remove_adapter",
    "require_peft",
    "retrain",
    "save_adapter",
    "set_adapters",
    "to_dtype",
    "weight_hash_with_adapters",
    "without_lora",
]
