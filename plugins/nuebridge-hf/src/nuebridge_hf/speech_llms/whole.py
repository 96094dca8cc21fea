"""A published speech-language model taken apart: read whole by the library, then its parts as those of an integration.

Reading it whole leaves the names in its files, and what became of them, to transformers. The parts share its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel

from nuebridge.contracts import Bridge, SpeechEncoder
from nuebridge.errors import CheckpointError, PromptError
from nuebridge.hookspecs import BridgeComponent, Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.model import Integration, PartInfo
from nuebridge.plugins import PluginManager
from nuebridge.settings import GenerationSettings, PromptTemplate
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.causal_models import text_half, token_ids_in
from nuebridge_hf.loading import config_from_dict, load_model, one_line, quiet_transformers, read_json
from nuebridge_hf.options import DecoderOptions
from nuebridge_hf.speech_llms.towers import inside
from nuebridge_hf.tokenizers import Tokenizer, load_tokenizer

P = TypeVar("P")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CONTEXT = "\ue000context\ue001"
"""What stands for the context while the library writes the prompt: characters for private use."""


@dataclass(frozen=True)
class Whole:
    """A published checkpoint, read."""

    folder: Path
    manager: PluginManager
    data: Mapping[str, Any]
    """config.json."""
    model: Any

    @classmethod
    def read(
        cls, folder: Path, manager: PluginManager, model_class: Any, state: dict[str, Tensor] | None = None
    ) -> Whole:
        """Reads ``folder``; ``state`` are its weights where the library is not to look for them itself.

        Raises CheckpointError.
        """
        source = str(folder)
        data = read_json(source, "config.json", required=True) or {}
        config = config_from_dict(data, source)
        model, _ = load_model(model_class, config, source=source, state_dict=state, harmless={})
        return cls(folder, manager, data, model)

    @property
    def config(self) -> Any:
        """The whole model's configuration."""
        return self.model.config

    def said(self, key: str) -> Any:
        """What config.json says of something the library may not know."""
        return self.data.get(key)

    def decoder(
        self,
        decoder_class: type[CausalLm],
        options_class: type[DecoderOptions] = DecoderOptions,
        tokenizer: Tokenizer | None = None,
    ) -> CausalLm:
        """The language model with its head; texts end with the tokens that the checkpoint ends them with."""
        source = str(self.folder)
        config: PretrainedConfig = self.config.get_text_config()
        text_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        if text_class is None:
            raise CheckpointError(f"{source!r} holds a language model of type {config.model_type!r}, which is unknown")
        text: PreTrainedModel = text_half(self.model, text_class, source)
        tokenizer = tokenizer or load_tokenizer(source)
        ends = self._end_token_ids(tokenizer)
        # Spelled out, so that a saved decoder does not have to find them again.
        options = options_class(end_tokens=tuple(tokenizer.token(token_id) for token_id in ends))
        return decoder_class(text, tokenizer, eos_token_ids=ends, options=options)

    def _end_token_ids(self, tokenizer: Tokenizer) -> list[int]:
        """As ``generate`` of the library has them, the tokenizer's own first, for that is the one to be learned."""
        generation = read_json(str(self.folder), "generation_config.json") or {}
        named = generation.get("eos_token_id")
        if named is None:
            named = self.said("eos_token_id")
        if named is None:
            named = self.config.get_text_config().eos_token_id
        ends = token_ids_in(named)
        own = tokenizer.eos_token_id
        return [own, *(one for one in ends if one != own)] if own in ends and own is not None else ends

    def joined(
        self,
        encoder: SpeechEncoder,
        bridge_id: str,
        bridge_options: Mapping[str, Any],
        bridge_module: str,
        decoder: CausalLm,
        *,
        prompt: PromptTemplate,
        at_most: float | None,
        components: tuple[str, str],
    ) -> Integration:
        """The integration. ``components`` are the ids of the encoder's and the decoder's; ``at_most`` is the longest
        clip in seconds that the model takes at once, where that is known."""
        ref = self.manager.find(BridgeComponent, bridge_id)
        options = ref.parse_options(dict(bridge_options))
        bridge = ref.load().build(encoder.hidden_size, decoder.hidden_size, options)
        _fill(bridge, inside(self.model, bridge_module).state_dict(), self.folder)
        generation = GenerationSettings()
        encoder_id, decoder_id = components
        integration = Integration(
            encoder,
            bridge,
            decoder,
            prompt=prompt,
            generation=generation,
            max_audio_seconds=longest_clip(encoder, bridge, decoder, prompt, generation, at_most),
            part_info={
                "encoder": self._info(SpeechEncoderComponent, encoder_id),
                "bridge": PartInfo(ref.id, ref.distribution, ref.version),
                "decoder": self._info(TextDecoderComponent, decoder_id),
            },
        )
        integration.storage_dtype = _DTYPES.get(str(self.said("dtype") or self.said("torch_dtype")))
        return integration.float().eval()

    def _info(self, kind: type[Component], component: str) -> PartInfo:
        ref = self.manager.find(kind, component)
        return PartInfo(ref.id, ref.distribution, ref.version)


def longest_clip(
    encoder: SpeechEncoder,
    bridge: Bridge,
    decoder: CausalLm,
    prompt: PromptTemplate,
    generation: GenerationSettings,
    at_most: float | None,
) -> float | None:
    """The most whole seconds whose audio, prompt and text fit the decoder's positions; None where nothing bounds it."""
    if encoder.max_audio_seconds is not None:
        at_most = min(encoder.max_audio_seconds, at_most or encoder.max_audio_seconds)
    if decoder.max_positions is None:
        return at_most
    around = len(decoder.encode(prompt.prefix)) + len(decoder.encode(prompt.suffix))

    def fits(seconds: int) -> bool:
        frames = encoder.output_lengths(torch.tensor([seconds * encoder.sample_rate]))
        positions = int(bridge.output_lengths(frames)) + around + generation.max_new_tokens.tokens(seconds)
        return positions <= decoder.max_positions  # type: ignore[operator]

    low, high = 0, int(at_most) + 1 if at_most is not None else 1 << 20
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    if at_most is not None and low == int(at_most):
        return at_most
    return float(low) if low else at_most  # where nothing fits, the prompt's own error says so


def own_processor(processor_class: type[P], folder: Path) -> P:
    """The library's processor of a checkpoint. Raises CheckpointError."""
    try:
        with quiet_transformers():
            processor: P = processor_class.from_pretrained(str(folder))  # type: ignore[attr-defined]
    except Exception as error:  # each of its parts fails in its own way
        raise CheckpointError(f"the processor of {folder} cannot be made: {one_line(error)}") from error
    return processor


def prompt_with_context(write: Callable[[str | None], str], audio_token: str) -> PromptTemplate:
    """The prompt that the library writes, with a field for the context where leaving it empty gives the same.

    ``write`` gives the prompt for a context, the audio's place marked by ``audio_token``. Raises PromptError where
    that is not there once.
    """
    plain, marked = write(None), write(_CONTEXT)
    empty = marked.replace(_CONTEXT, "")
    chosen = marked if empty == plain and _CONTEXT in marked else plain
    parts = chosen.split(audio_token)
    if len(parts) != 2:
        raise PromptError(
            f"the checkpoint's chat template writes the audio's place {audio_token!r} {len(parts) - 1} times, not once"
        )
    before, after = (_field(part) for part in parts)
    return PromptTemplate(prefix=before, suffix=after, defaults={"context": ""} if chosen is marked else {})


def _field(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}").replace(_CONTEXT, "{context}")


def _fill(bridge: Bridge, state: Mapping[str, Tensor], folder: Path) -> None:
    """Raises CheckpointError where the bridge is not made as the model's own."""
    expected = bridge.state_dict()
    wrong = sorted(set(state) ^ set(expected))
    wrong += [name for name in set(state) & set(expected) if state[name].shape != expected[name].shape]
    if wrong:
        raise CheckpointError(
            f"the bridge of {folder} is not made as config.json says: {', '.join(wrong[:4])} do not fit"
        )
    bridge.load_state_dict(dict(state))
