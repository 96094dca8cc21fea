"""The CTC head of a fine-tuned checkpoint comes along, its rows spelled by the checkpoint's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import torch
from fairseq2.nn import BatchLayout

from nuebridge.ctc import CtcHead
from nuebridge.errors import CheckpointError
from nuebridge_fairseq2.encoders import Wav2Vec2Encoder
from nuebridge_fairseq2.examples import CARDS, make_model, write, write_card
from nuebridge_fairseq2.options import Wav2Vec2Options


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of single characters: four special symbols, a space and seven letters."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("abc def g\ngfe dcb a\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "letters"),
        model_type="char",
        vocab_size=12,
        character_coverage=1.0,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return folder / "letters.model"


def test_the_head_gives_the_logits_of_the_library(tokenizer: Path, tmp_path: Path) -> None:
    write(tmp_path, CARDS["fine-tuned"])
    options = Wav2Vec2Options(tokenizer=str(tokenizer))
    own = Wav2Vec2Encoder.own_ctc_head(str(tmp_path), options)
    assert own is not None
    head = CtcHead.of_checkpoint(own).eval()
    encoder = Wav2Vec2Encoder.load(str(tmp_path), options).eval()
    clip = 0.1 * torch.randn(1, 9_921)
    with torch.no_grad():
        frames = head(encoder(clip, torch.tensor([9_921])))
        expected, _ = make_model(CARDS["fine-tuned"])(clip, BatchLayout.of(clip))
    assert frames.ctc_logits is not None
    torch.testing.assert_close(frames.ctc_logits, expected, atol=1e-5, rtol=0)


def test_symbols_are_those_of_the_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    write(tmp_path, CARDS["fine-tuned"])
    own = Wav2Vec2Encoder.own_ctc_head(str(tmp_path), Wav2Vec2Options(tokenizer=str(tokenizer)))
    assert own is not None
    model = sentencepiece.SentencePieceProcessor(str(tokenizer))
    pieces = [model.id_to_piece(index).replace("▁", " ") for index in range(12)]
    assert list(own.vocabulary.symbols) == pieces[1:]
    assert own.vocabulary.silent == ("<unk>", "</s>", "<pad>") and own.vocabulary.lowercase
    head = CtcHead.of_checkpoint(own)
    indices = head.encode("Abc de")
    assert indices == [pieces.index(letter) for letter in "abc de"] and head.decode(indices) == "abc de"


def test_a_card_may_name_the_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    write(tmp_path, CARDS["fine-tuned"])
    (tmp_path / "letters.model").write_bytes(tokenizer.read_bytes())
    write_card(tmp_path, {"name": "letters", "tokenizer_family": "char_tokenizer", "tokenizer": "letters.model"})
    card = {"name": "tiny", **CARDS["fine-tuned"], "checkpoint": "model.safetensors", "tokenizer_ref": "letters"}
    write_card(tmp_path, card)
    own = Wav2Vec2Encoder.own_ctc_head(str(tmp_path), Wav2Vec2Options())
    assert own is not None and own.weight.shape == (12, 16)


def test_a_head_that_nothing_spells_is_told(tokenizer: Path, tmp_path: Path) -> None:
    write(tmp_path, CARDS["fine-tuned"])
    with pytest.raises(CheckpointError, match="set the option tokenizer"):
        Wav2Vec2Encoder.own_ctc_head(str(tmp_path), Wav2Vec2Options())
    with pytest.raises(CheckpointError, match="there is no tokenizer"):
        Wav2Vec2Encoder.own_ctc_head(str(tmp_path), Wav2Vec2Options(tokenizer=str(tmp_path / "none.model")))
    (tmp_path / "bad.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Wav2Vec2Encoder.own_ctc_head(str(tmp_path), Wav2Vec2Options(tokenizer=str(tmp_path / "bad.model")))


def test_a_pre_trained_checkpoint_has_no_head(tmp_path: Path) -> None:
    write(tmp_path, CARDS["base"])
    assert Wav2Vec2Encoder.own_ctc_head(str(tmp_path), Wav2Vec2Options()) is None
