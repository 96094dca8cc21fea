"""Toy parts that each break one rule of the contracts, for the conformance suite to find."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn
from toy.parts import ToyBridge, ToyDecoder, ToyEncoder

from nuebridge.contracts import Frames, Generated, GenerationOptions, ParameterGroup
from nuebridge.hookspecs import BridgeComponent, Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.plugins import ComponentRef
from nuebridge.tensors import load_weights, read_json, read_weights, save_weights
from nuebridge.testing.subject import BridgeSubject, DecoderSubject, EncoderSubject, PartSubject


def write_encoder(folder: Path) -> None:
    torch.manual_seed(1)
    ToyEncoder(12).save(folder)


def write_decoder(folder: Path) -> None:
    torch.manual_seed(1)
    ToyDecoder(16).save(folder)


def subject(part: type, options: type[BaseModel] | None = None) -> PartSubject:
    """A part as the suite tests it."""

    def ref(kind: type[Component]) -> ComponentRef[Any]:
        record = kind(name="part", summary="A part.", load=lambda: part, options=options)
        return ComponentRef("faulty.part", record, "faulty", "nuebridge-faulty", "0.1")

    if issubclass(part, ToyEncoder):
        return EncoderSubject(ref(SpeechEncoderComponent), {}, "toy", write_encoder)
    if issubclass(part, ToyDecoder):
        return DecoderSubject(ref(TextDecoderComponent), {}, "toy", write_decoder)
    return BridgeSubject(ref(BridgeComponent))


@dataclass(frozen=True)
class Fault:
    """A part, the check that must find what is wrong with it, and a word of what it finds."""

    check: str
    part: type
    found: str
    options: type[BaseModel] | None = None

    def __str__(self) -> str:
        return self.part.__name__


FAULTS: list[Fault] = []


def breaks(check: str, found: str, options: type[BaseModel] | None = None) -> Any:
    def add(part: type) -> type:
        FAULTS.append(Fault(check, part, found, options))
        return part

    return add


# --- encoders --------------------------------------------------------------------------------------


@breaks("frames_have_their_shape", "hidden_size is 13")
class WidthOfItsOwn(ToyEncoder):
    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.hidden_size = hidden_size + 1


@breaks("it_declares_itself", "10 s give 100 frames")
class AnotherFrameRate(ToyEncoder):
    frame_rate = 50.0


@breaks("output_lengths_are_whole_numbers", "torch.float32")
class LengthsOfFractions(ToyEncoder):
    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths / 100


@breaks("output_lengths_are_whole_numbers", "-1 for")
class LengthsBelowNothing(ToyEncoder):
    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths - 100) // 100 + 1 - (lengths < 50).long()


@breaks("output_lengths_are_exact", "samples give")
class LengthsThatRoundUp(ToyEncoder):
    """Right at most lengths, one too many just before an edge."""

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        frames = lengths // 100
        chunks = waveforms[:, : int(frames.max()) * 100].unflatten(1, (-1, 100))
        return Frames(torch.tanh(self.proj(chunks)), frames).zero_padding()

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + 1) // 100


@breaks("padding_is_zero", "past its length")
class PaddingThatIsHeard(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        chunks = waveforms[:, : int((lengths // 100).max()) * 100].unflatten(1, (-1, 100))
        return Frames(torch.tanh(self.proj(chunks)), lengths // 100)


@breaks("a_batch_gives_what_single_clips_give", "between alone and a batch")
class NormOverThePadding(ToyEncoder):
    """The trap of every group norm before a mask."""

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        scale = waveforms.square().mean(1, keepdim=True).add(1e-7).rsqrt()
        return super().forward(waveforms * scale, lengths)


@breaks("a_batch_gives_what_single_clips_give", "a batch with more padding")
class NormOverSharedPadding(ToyEncoder):
    """Clips that are as long as the batch come out right."""

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        return super().forward(waveforms * (float(lengths.max()) / waveforms.shape[1]), lengths)


@breaks("gradients_stay_within_a_clip", "with respect to the second")
class NormOverTheBatch(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        return super().forward(waveforms - 0.1 * waveforms.mean(), lengths)


@breaks("clips_that_are_too_short_are_refused", "RuntimeError|raised nothing|SizeMismatchError|IndexError")
class ShortClipsThatCrash(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        frames = self.output_lengths(lengths)
        chunks = waveforms[:, : int(frames.max()) * 100].unflatten(1, (-1, 100))
        return Frames(torch.tanh(self.proj(chunks.to(self.dtype))), frames).zero_padding()


@breaks("running_is_deterministic_and_changes_nothing", "second run differs")
class DropoutInEvalMode(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        frames = super().forward(waveforms, lengths)
        return replace(frames, features=nn.functional.dropout(frames.features, 0.1, training=True))


@breaks("running_is_deterministic_and_changes_nothing", "changed seen")
class CountsWhatItHears(ToyEncoder):
    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.register_buffer("seen", torch.zeros(()))

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Any:
        part = cls(read_json(Path(source) / "config.json")["hidden_size"])
        part.load_state_dict(read_weights(Path(source) / "model.safetensors"), strict=False)
        return part

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        self.seen += len(lengths)
        return super().forward(waveforms, lengths)


@breaks("training_follows_the_seed", "seeds of random and numpy")
class DrawsFromNumpy(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        noise = np.random.rand() if self.training else 0.0
        return super().forward(waveforms + noise, lengths)


@breaks("training_follows_the_seed", "seeds of random and numpy")
class DrawsFromPython(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        return super().forward(waveforms * (1 + random.random() * self.training), lengths)


@breaks("gradients_reach_what_is_trained", "no gradient")
class FramesWithoutGradient(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        frames = super().forward(waveforms, lengths)
        return replace(frames, features=frames.features.detach())


@breaks("gradients_reach_what_is_trained", "parameter group 'layers.2'")
class LayerThatIsNeverRun(ToyEncoder):
    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.other = nn.Parameter(torch.ones(3))

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Any:
        part = cls(read_json(Path(source) / "config.json")["hidden_size"])
        part.load_state_dict(read_weights(Path(source) / "model.safetensors"), strict=False)
        return part

    def parameter_groups(self) -> list[ParameterGroup]:
        return [*super().parameter_groups(), ParameterGroup("layers.2", (self.other,))]


@breaks("frozen_parameters_get_no_gradients", "proj.weight")
class UnfreezesItself(ToyEncoder):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode:
            self.requires_grad_(True)
        return self


@breaks("a_frozen_encoder_gives_no_graph", "require a gradient")
class AsksForGradients(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        return super().forward(waveforms.detach().requires_grad_(), lengths)


@breaks("parameter_groups_hold_each_parameter_once", "proj.bias is listed 0 times")
class ForgetsABias(ToyEncoder):
    def parameter_groups(self) -> list[ParameterGroup]:
        return super().parameter_groups()[:1]


@breaks("parameter_groups_hold_each_parameter_once", "proj.weight is listed 2 times")
class ListsAWeightTwice(ToyEncoder):
    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", tuple(self.parameters())), ParameterGroup("first", (self.proj.weight,))]


@breaks("parameter_groups_hold_each_parameter_once", "group names repeat")
class NamesGroupsAlike(ToyEncoder):
    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("layer", (parameter,)) for parameter in self.parameters()]


@breaks("state_goes_round", "does not change the output")
class KeepsACopyOfItsWeights(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        torch.manual_seed(5)
        self.proj.weight.data = torch.randn(12, 100)
        self.proj.bias.data = torch.zeros(12)
        return super().forward(waveforms, lengths)


@breaks("saving_and_loading_keeps_the_output", "proj.weight has other values")
class SavesWhatItLoaded(ToyEncoder):
    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Any:
        part = super().load(source, options)
        part.source = source
        return part

    def save(self, folder: Path) -> None:
        for file in Path(self.source).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())


@breaks("saving_twice_gives_the_same_bytes", "stamp.json")
class StampsWhatItSaves(ToyEncoder):
    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "stamp.json").write_text(str(time.perf_counter_ns()))


@breaks("weights_are_safetensors", "model.bin")
class SavesAPickle(ToyEncoder):
    def save(self, folder: Path) -> None:
        super().save(folder)
        torch.save(self.state_dict(), folder / "model.bin")


@breaks("damaged_checkpoints_are_refused", "a missing weight raised nothing")
class FillsInWhatIsMissing(ToyEncoder):
    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Any:
        part = cls(read_json(Path(source) / "config.json")["hidden_size"])
        part.load_state_dict(read_weights(Path(source) / "model.safetensors"), strict=False)
        return part


@breaks("a_source_that_is_not_there_is_refused", "FileNotFoundError")
class TracebackForAMissingSource(ToyEncoder):
    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Any:
        (Path(source) / "config.json").read_text()
        return super().load(source, options)


@breaks("bfloat16_is_finite", "RuntimeError")
class Float32Alone(ToyEncoder):
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        frames = self.output_lengths(lengths)
        chunks = waveforms[:, : int(frames.max()) * 100].unflatten(1, (-1, 100))
        return Frames(torch.tanh(self.proj(chunks.float())), frames).zero_padding()


@breaks("outline_agrees_with_load", "hidden_size is 13 in outline")
class OutlineOfAnotherWidth(ToyEncoder):
    @classmethod
    def outline(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Any:
        with torch.device("meta"):
            return cls(13)


@breaks("lora_finds_layers", "takes no LoRA|match no layer|not found")
class LoraForLayersItHasNot(ToyEncoder):
    target_modules = ("q_proj", "v_proj")


class Careless(BaseModel):
    """Options that let a misspelt key pass, though they say they forbid it."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop(cls, value: Any) -> Any:
        return {}


@breaks("options_refuse_unknown_keys", "no_such_option raised nothing", Careless)
class CarelessOptions(ToyEncoder):
    pass


@breaks("options_survive_saving", "part.options is None")
class ForgetsItsOptions(ToyEncoder):
    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.options = None


# --- bridges ---------------------------------------------------------------------------------------


@breaks("it_joins_its_neighbours", "it gives \\[2, 20, 99\\]|it gives")
class WidthTypedByHand(ToyBridge):
    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.conv = nn.Conv1d(input_size, 99, 2, 2)


@breaks("positions_have_their_shape", "reach past the")
class LengthsPastTheEnd(ToyBridge):
    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        out = super().forward(frames)
        return replace(out, features=out.features[:, :-1])


@breaks("output_lengths_hold", "output_lengths says")
class BoundCalledExact(ToyBridge):
    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        out = super().forward(frames)
        return replace(out, lengths=out.lengths - (out.lengths > 5).long()).zero_padding()


@breaks("output_lengths_hold", "more than output_lengths allows")
class BoundThatIsPassed(ToyBridge):
    lengths_are_exact = False

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // 3

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        features = self.conv(frames.features.transpose(1, 2)).transpose(1, 2)
        return Frames(features, frames.lengths // 2, losses=frames.losses).zero_padding()


@breaks("padding_is_zero", "past its length")
class BiasInThePadding(ToyBridge):
    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        out = super().forward(frames)
        return replace(out, features=out.features + self.conv.bias)


@breaks("a_batch_gives_what_single_clips_give", "differ by")
class MeanOverThePadding(ToyBridge):
    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        out = super().forward(frames)
        return replace(out, features=out.features - out.features.mean(1, keepdim=True)).zero_padding()


@breaks("gradients_stay_within_a_clip", "with respect to the second")
class MeanOverTheBatch(ToyBridge):
    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        shifted = replace(frames, features=frames.features + 0.01 * frames.features.mean())
        return super().forward(shifted.zero_padding())


@breaks("auxiliary_losses_are_handed_on", "of-before")
class DropsLosses(ToyBridge):
    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        return replace(super().forward(frames), losses={})


@breaks("target_lengths_are_taken", "TypeError")
class TakesNoTargets(ToyBridge):
    def forward(self, frames: Frames) -> Frames:  # type: ignore[override]
        return super().forward(frames)


@breaks("clips_that_are_too_short_are_refused", "raised nothing|RuntimeError")
class ShortClipsThatVanish(ToyBridge):
    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        features = self.conv(nn.functional.pad(frames.features, (0, 0, 0, 2)).transpose(1, 2)).transpose(1, 2)
        return Frames(features, self.output_lengths(frames.lengths), losses=frames.losses).zero_padding()


@breaks("extreme_ctc_logits_are_taken", "all blank give 0 positions")
class NothingForSilence(ToyBridge):
    lengths_are_exact = False

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        out = super().forward(frames)
        assert frames.ctc_logits is not None
        heard = (frames.ctc_logits.argmax(-1) != 0).any(1)
        return replace(out, lengths=out.lengths * heard).zero_padding()


@breaks("other_widths_are_refused", "raised nothing")
class ReadsAnyWidths(ToyBridge):
    @classmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: BaseModel) -> Any:
        return cls(input_size, output_size)


# --- decoders --------------------------------------------------------------------------------------


@breaks("it_declares_itself", "special token 999")
class EndOutsideTheVocabulary(ToyDecoder):
    eos_token_ids = (257, 999)


@breaks("embeddings_have_their_shape", "RuntimeError")
class EmbedsNothingBadly(ToyDecoder):
    def embed(self, token_ids: Tensor) -> Tensor:
        return torch.stack([self.embedding(row) for row in token_ids])


@breaks("text_becomes_tokens", "the empty text becomes")
class AddsABeginToken(ToyDecoder):
    def encode(self, text: str) -> list[int]:
        return [256, *super().encode(text)]


@breaks("text_becomes_tokens", "special tokens \\[257\\] added")
class AddsAnEndToken(ToyDecoder):
    def encode(self, text: str) -> list[int]:
        ids = super().encode(text)
        return [*ids, 257] if ids and ids[-1] < 256 else ids


@breaks("text_becomes_tokens", "is written '</s>', which is read as")
class ReadsSpecialTokensAsText(ToyDecoder):
    def encode(self, text: str) -> list[int]:
        return list(text.encode())


@breaks("tokens_become_text", "with an end token")
class WritesTheEndToken(ToyDecoder):
    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode(token_ids) + "</s>" * list(token_ids).count(257)


@breaks("tokens_become_text", "IndexError")
class CannotWriteItsLastToken(ToyDecoder):
    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join([*map(chr, range(257))][token_id] for token_id in token_ids)


@breaks("logits_have_their_shape", "for num_logits=3")
class GivesAllLogits(ToyDecoder):
    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, num_logits: int | None = None) -> Tensor:
        return super().forward(inputs_embeds, attention_mask)


@breaks("logits_look_back_only", "changes earlier logits")
class LooksAhead(ToyDecoder):
    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, num_logits: int | None = None) -> Tensor:
        return super().forward(inputs_embeds + 0.1 * inputs_embeds.mean(1, keepdim=True), attention_mask, num_logits)


@breaks("padding_changes_no_logits", "with 3 positions of padding on the left")
class CountsPadding(ToyDecoder):
    """Positions from the row's beginning, as where position_ids are not passed."""

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, num_logits: int | None = None) -> Tensor:
        places = 0.1 * torch.arange(inputs_embeds.shape[1])[None, :, None]
        return super().forward(inputs_embeds + places, attention_mask, num_logits)


@breaks("gradients_reach_the_inputs", "no gradient with respect to inputs_embeds")
class NoWayBack(ToyDecoder):
    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, num_logits: int | None = None) -> Tensor:
        return super().forward(inputs_embeds.detach(), attention_mask, num_logits)


@breaks("generation_is_greedy", "but forward's best is")
class TakesTheSecondBest(ToyDecoder):
    def _greedy(self, embeds: Tensor, limit: int, least: int) -> Generated:
        found = super()._greedy(embeds, limit, least)
        return replace(found, token_ids=[(token + 1) % 256 for token in found.token_ids])


@breaks("generation_is_greedy", "tokens' mean is")
class SumsItsScores(ToyDecoder):
    def _greedy(self, embeds: Tensor, limit: int, least: int) -> Generated:
        found = super()._greedy(embeds, limit, least)
        return replace(found, avg_logprob=found.avg_logprob * len(found.token_ids))


@breaks("generation_is_greedy", "truncated is False")
class NeverTruncated(ToyDecoder):
    def _greedy(self, embeds: Tensor, limit: int, least: int) -> Generated:
        return replace(super()._greedy(embeds, limit, least), truncated=False)


@breaks("a_batch_gives_what_single_rows_give", "tokens for a limit of 2")
class OneLimitForAll(ToyDecoder):
    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, options: GenerationOptions) -> list[Generated]:
        limits = [max(options.max_new_tokens)] * len(inputs_embeds)
        return super().generate(inputs_embeds, attention_mask, replace(options, max_new_tokens=limits))


@breaks("a_batch_gives_what_single_rows_give", "but forward's best is|in a batch")
class ReadsThePadding(ToyDecoder):
    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, options: GenerationOptions) -> list[Generated]:
        heard = inputs_embeds.masked_fill(attention_mask[..., None] == 0, 2.0)
        return super().generate(heard, torch.ones_like(attention_mask), options)


@breaks("an_end_token_ends_the_text", "token_ids and truncated are")
class LeavesOutTheEnd(ToyDecoder):
    def _greedy(self, embeds: Tensor, limit: int, least: int) -> Generated:
        found = super()._greedy(embeds, limit, least)
        return replace(found, token_ids=[token for token in found.token_ids if token != 257])


@breaks("an_end_token_ends_the_text", "with min_new_tokens=2")
class EndsAtOnce(ToyDecoder):
    def _greedy(self, embeds: Tensor, limit: int, least: int) -> Generated:
        return super()._greedy(embeds, limit, 0)


@breaks("saving_and_loading_keeps_the_output", "has other values|differs by")
class SavesHalfPrecision(ToyDecoder):
    def save(self, folder: Path) -> None:
        super().save(folder)
        half = ToyDecoder(self.hidden_size)
        half.load_state_dict(self.state_dict())
        save_weights(half.to(torch.float16), folder)

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Any:
        part = cls(read_json(Path(source) / "config.json")["hidden_size"])
        load_weights(part, Path(source))
        return part
