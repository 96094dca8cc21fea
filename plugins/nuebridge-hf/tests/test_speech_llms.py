"""Published speech-language models give the library's own greedy tokens, and can be saved, adapted and reused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import nuebridge
from nuebridge.contracts import RecognitionOptions
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.hookspecs import SpeechEncoderComponent, TextDecoderComponent
from nuebridge.lora import add_lora
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge.prompt import render
from nuebridge.settings import LoraSettings
from nuebridge.testing import conformance
from nuebridge.testing.integrations import need_learning
from nuebridge_hf.speech_llms import examples
from nuebridge_hf.speech_llms.known import need
from nuebridge_hf.tokenizers import load_tokenizer

if "granite_speech_encoder" not in transformers.CONFIG_MAPPING:
    reason = f"transformers {transformers.__version__} knows these models in part, and they are refused"
    pytest.skip(reason, allow_module_level=True)

MANAGER = PluginManager.discover()
FEATURES = Path(__file__).parent / "fixtures" / "torchaudio-features.safetensors"
NEW_TOKENS = 12
INSTRUCTION = "<|audio|>can you transcribe the speech into a written format?"


def clips(*lengths: int) -> list[Tensor]:
    """Rising tones of those lengths in samples, each unlike the others; no random numbers, which releases draw anew."""
    times = [torch.arange(length, dtype=torch.float64) / 16000 for length in lengths]
    tones = [
        0.3 * torch.sin(900 * (row + 1) * t + 2000 * t * t) + 0.1 * torch.sin(5000 * t + 300 * torch.sin(40 * t))
        for row, t in enumerate(times)
    ]
    return [tone.float() for tone in tones]


def librarys_tokens(model: Any, inputs: Any) -> list[int]:
    """New tokens of the library's greedy search, the end token included."""
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
    tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
    ends = model.generation_config.eos_token_id
    for place, token in enumerate(tokens):
        if token in (ends if isinstance(ends, list) else [ends]):
            return tokens[: place + 1]
    return tokens


def our_tokens(integration: Integration, waveforms: Sequence[Tensor], **options: Any) -> list[list[int]]:
    """New tokens of clips as one batch."""
    found = integration.recognize(waveforms, RecognitionOptions(max_new_tokens=NEW_TOKENS, **options))
    return [list(transcript.token_ids) for transcript in found]


def as_array(clip: Tensor) -> Any:
    return np.asarray(clip, dtype=np.float32)


def integration_prompt_ids(integration: Integration, samples: int, audio_id: int, **fields: str) -> list[int]:
    """The whole prompt's ids for a clip of so many samples, with one ``audio_id`` for each of its positions."""
    frames = integration.encoder.output_lengths(torch.tensor([samples]))
    positions = int(integration.bridge.output_lengths(frames))
    before, after = render(integration.prompt, fields)
    return [*integration.decoder.encode(before), *[audio_id] * positions, *integration.decoder.encode(after)]


def library(folder: Path, name: str) -> Any:
    """The whole model of the library."""
    return getattr(transformers, name).from_pretrained(folder).eval()


def of_qwen3_asr(folder: Path) -> tuple[Any, Callable[[torch.Tensor], Any]]:
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = library(folder, "Qwen3ASRForConditionalGeneration")
    return model, lambda clip: processor.apply_transcription_request(as_array(clip))


def of_voxtral(folder: Path) -> tuple[Any, Callable[[torch.Tensor], Any]]:
    pytest.importorskip("mistral_common", reason="Voxtral's own processor needs mistral-common")
    pytest.importorskip("soundfile", reason="Voxtral's own processor needs soundfile")
    processor = transformers.VoxtralProcessor.from_pretrained(folder)

    def inputs(clip: torch.Tensor) -> Any:
        return processor.apply_transcription_request(
            [as_array(clip)], model_id="any", format=["WAV"], sampling_rate=16000
        )

    return library(folder, "VoxtralForConditionalGeneration"), inputs


def of_granite_speech(folder: Path) -> tuple[Any, Callable[[torch.Tensor], Any]]:
    """Its processor needs torchaudio: the features are those that it gave (make_torchaudio_features.py)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    heard = load_file(FEATURES)

    def inputs(clip: torch.Tensor) -> Any:
        mels = heard[f"granite-{len(clip)}"][None]
        positions = -(-mels.shape[1] // 15) * 3
        chat = [{"role": "user", "content": INSTRUCTION.replace("<|audio|>", "<|audio|>" * positions)}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        given = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        mask = torch.ones(1, positions, dtype=torch.bool)
        return {
            "input_ids": given["input_ids"],
            "attention_mask": given["attention_mask"],
            "input_features": mels,
            "input_features_mask": mask,
        }

    return library(folder, "GraniteSpeechForConditionalGeneration"), inputs


def write_voxtral(folder: Path) -> None:
    """With the windows of the published models, which their processor assumes."""
    examples.write_voxtral(folder, seconds=30)


@dataclass(frozen=True)
class Case:
    name: str
    write: Callable[[Path], None]
    theirs: Callable[[Path], tuple[Any, Callable[[torch.Tensor], Any]]]
    lengths: tuple[int, ...]


CASES = [
    Case("qwen3_asr", examples.write_qwen3_asr, of_qwen3_asr, (4000, 16000, 16001, 48111, 160000)),
    Case("voxtral", write_voxtral, of_voxtral, (4000, 16001, 480000, 480001)),
    Case("granite_speech", examples.write_granite_speech, of_granite_speech, (4000, 8001, 12347)),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request):
    if request.param.name not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not know {request.param.name}")
    return request.param


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    made = tmp_path_factory.mktemp(case.name)
    case.write(made)
    return made


def test_tokens_are_the_librarys(case, folder):
    integration = nuebridge.load(folder)
    model, inputs = case.theirs(folder)
    waveforms = clips(*case.lengths)
    together = our_tokens(integration, waveforms)
    for waveform, batched in zip(waveforms, together, strict=True):
        given = inputs(waveform)
        expected = librarys_tokens(model, given)
        assert our_tokens(integration, [waveform]) == [expected]
        assert batched == expected
        audio_id = model.config.audio_token_id
        assert integration_prompt_ids(integration, len(waveform), audio_id) == given["input_ids"][0].tolist()
    assert len({tuple(tokens) for tokens in together}) > 1, "every clip gives the same tokens: nothing is shown"


def test_it_saves_and_loads_in_nuebridges_own_format(case, folder, tmp_path):
    integration = nuebridge.load(folder)
    waveforms = clips(4000, 8001)
    nuebridge.save(integration, tmp_path / "own")
    again = nuebridge.load(tmp_path / "own")
    assert again.weight_hash() == integration.weight_hash()
    assert again.decoder.eos_token_ids == integration.decoder.eos_token_ids
    assert again.max_audio_seconds == integration.max_audio_seconds
    assert our_tokens(again, waveforms) == our_tokens(integration, waveforms)
    nuebridge.save(again, tmp_path / "twice")
    for file in (tmp_path / "own").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "twice" / file.relative_to(tmp_path / "own")).read_bytes(), file


def test_its_decoder_learns_through_lora(case, folder):
    integration = nuebridge.load(folder)
    before = integration.decoder.model.get_output_embeddings().weight.detach().clone()
    frozen = {name: p.detach().clone() for name, p in integration.encoder.named_parameters()}
    state = {name: b.detach().clone() for name, b in integration.encoder.named_buffers()}
    added = add_lora(integration, "decoder", LoraSettings(r=2))
    assert added
    for part in integration.parts.values():
        part.requires_grad_(False)
    for parameter in added:
        parameter.requires_grad_(True)
    integration.train()
    waveforms = clips(4000, 8001)
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), torch.tensor([len(w) for w in waveforms])
    fields = [dict(integration.prompt.defaults)] * 2
    optimizer = torch.optim.AdamW(added, lr=0.02)
    found = []
    for _ in range(4):
        torch.manual_seed(0)
        losses = integration(*batch, ["a day", "so"], fields=fields)
        found.append(float(losses.text.detach()))
        optimizer.zero_grad()
        losses.text.backward()
        optimizer.step()
    assert found[-1] < found[0]
    assert torch.equal(before, integration.decoder.model.get_output_embeddings().weight)
    assert all(torch.equal(frozen[name], p) for name, p in integration.encoder.named_parameters())
    assert all(torch.equal(state[name], b) for name, b in integration.encoder.named_buffers())


def test_two_steps_of_the_trainer_lower_the_loss(case, folder):
    need_learning(nuebridge.load(folder))


def test_the_encoder_alone_is_read_out_of_the_whole(case, folder):
    integration = nuebridge.load(folder)
    ref = MANAGER.find(SpeechEncoderComponent, f"hf.{case.name.replace('_', '-')}-encoder")
    alone = ref.load().load(str(folder), ref.parse_options({})).eval()
    waveform = clips(8001)[0][None]
    with torch.no_grad():
        ours, theirs = (one(waveform, torch.tensor([8001])) for one in (alone, integration.encoder))
    assert torch.equal(ours.features, theirs.features)
    assert ref.load().outline(str(folder), ref.parse_options({})).hidden_size == alone.hidden_size


class TestQwen3AsrEncoder(
    conformance("hf.qwen3-asr-encoder") if "qwen3_asr" in transformers.CONFIG_MAPPING else object
):
    pass


TestVoxtralEncoder = conformance("hf.voxtral-encoder")
TestGraniteSpeechEncoder = conformance("hf.granite-speech-encoder")
TestMlpProjector = conformance("hf.mlp-projector")
TestGraniteProjector = conformance("hf.granite-projector")
TestMarkedLm = conformance("hf.marked-lm")


def test_granites_features_are_torchaudios():
    from nuebridge_hf.speech_llms.granite_speech import GraniteSpeechEncoder

    config = transformers.GraniteSpeechEncoderConfig(
        input_dim=32, num_layers=2, hidden_dim=16, num_heads=2, context_size=20, max_pos_emb=32
    )
    from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechCTCEncoder

    encoder = GraniteSpeechEncoder(GraniteSpeechCTCEncoder(config), numbers={"n_mels": 16})
    heard = load_file(FEATURES)
    for clip in clips(4000, 8001, 12347):
        torch.testing.assert_close(encoder._features(clip), heard[f"granite-{len(clip)}"], rtol=0, atol=1e-4)


def test_granites_lora_counts(tmp_path):
    examples.write_granite_speech(tmp_path / "with")
    examples.write_granite_speech(tmp_path / "without")
    examples.edit_json(tmp_path / "without" / "config.json", has_lora_adapter=False)
    with_lora, without = (nuebridge.load(tmp_path / name) for name in ("with", "without"))
    assert with_lora.weight_hash() != without.weight_hash()
    waveforms = clips(4000, 8001, 12347)
    assert our_tokens(with_lora, waveforms) != our_tokens(without, waveforms)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "is missing"),
        (lambda folder: examples.edit_json(folder / "adapter_config.json", use_dora=True), "use_dora"),
        (lambda folder: _rename_lora(folder), "does not fit"),
    ],
)
def test_granites_lora_is_checked(tmp_path, damage, message):
    examples.write_granite_speech(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        nuebridge.load(tmp_path)


def _rename_lora(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    state = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})


def test_the_language_before_qwens_transcript_is_left_out(tmp_path):
    examples.write_marked_lm(tmp_path)
    ref = MANAGER.find(TextDecoderComponent, "hf.marked-lm")
    decoder = ref.load().load(str(tmp_path), ref.parse_options({}))
    assert decoder.decode(decoder.encode("language English<asr_text>a day<|im_end|>")) == "a day"
    assert decoder.decode(decoder.encode("a day<|im_end|>")) == "a day"
    with pytest.raises(ConfigError, match="text_after"):
        ref.load().load(str(tmp_path), ref.parse_options({"text_after": "two words"}))


@pytest.mark.skipif("qwen3_asr" not in transformers.CONFIG_MAPPING, reason="this transformers does not know Qwen3-ASR")
def test_qwens_context_goes_into_the_systems_turn(tmp_path):
    examples.write_qwen3_asr(tmp_path)
    integration = nuebridge.load(tmp_path)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    model = library(tmp_path, "Qwen3ASRForConditionalGeneration")
    (waveform,) = clips(8001)
    given = processor.apply_transcription_request(as_array(waveform), prompt="nuebridge {x}")
    assert integration_prompt_ids(integration, 8001, model.config.audio_token_id, context="nuebridge {x}") == (
        given["input_ids"][0].tolist()
    )
    options = RecognitionOptions(max_new_tokens=12, context="nuebridge {x}")
    assert list(integration.recognize([waveform], options)[0].token_ids) == librarys_tokens(model, given)


@pytest.mark.skipif("qwen3_asr" not in transformers.CONFIG_MAPPING, reason="this transformers does not know Qwen3-ASR")
def test_the_layout_of_qwens_own_package_is_named(tmp_path):
    examples.write_qwen3_asr(tmp_path)
    examples.edit_json(tmp_path / "config.json", thinker_config={})
    with pytest.raises(CheckpointError, match="-hf"):
        nuebridge.load(tmp_path)


@pytest.mark.skipif(int(transformers.__version__[0]) < 5, reason="transformers 4.57 reads tekken.json another way")
def test_mistrals_tokenizer_gives_mistrals_ids(tmp_path):
    tekken = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    examples.write_voxtral(tmp_path)
    nuebridge.save(nuebridge.load(tmp_path), tmp_path / "own")
    theirs, ours = (
        tekken.Tekkenizer.from_file(tmp_path / "tekken.json"),
        load_tokenizer(str(tmp_path / "own" / "decoder")),
    )
    for text in ("the other day", " Then, 42 of them\n\nthe  end", "日本語 ça", ""):
        ids = theirs.encode(text, bos=False, eos=False)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text


def test_a_tokenizer_without_the_tokens_for_transcription_is_named(tmp_path):
    examples.write_voxtral(tmp_path)
    file = tmp_path / "tekken.json"
    file.write_text(file.read_text().replace("[TRANSCRIBE]", "[SOMETHING]"))
    with pytest.raises(CheckpointError, match="TRANSCRIBE|cannot be read"):
        nuebridge.load(tmp_path)


def test_a_model_that_the_library_does_not_know_names_the_release():
    with pytest.raises(CheckpointError, match=r"transformers>=5\.23"):
        need("no_such_model")


def test_damage_is_a_checkpoint_error(case, folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError):
        nuebridge.load(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == case.name
