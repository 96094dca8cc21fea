from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuebridge.data.text import NORMALIZERS, TextNormalizer, normalize
from nuebridge.errors import ConfigError
from nuebridge.metrics import basic_normalize

TEXT = "  It’s “5,000.50” o'clock\n -- NOW (50%)… ＡＢＣ ｶﾞ 'quoted' "


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("none", TEXT),
        ("spaces", "It’s “5,000.50” o'clock -- NOW (50%)… ＡＢＣ ｶﾞ 'quoted'"),
        ("nfkc", "It’s “5,000.50” o'clock -- NOW (50%)... ABC ガ 'quoted'"),
        ("lower", "it’s “5,000.50” o'clock -- now (50%)… ａｂｃ ｶﾞ 'quoted'"),
        ("no-punctuation", "It's 5,000.50 o'clock NOW 50% ＡＢＣ ｶﾞ quoted"),
        ("basic", basic_normalize(TEXT)),
    ],
)
def test_each_by_name(name: str, normal: str) -> None:
    assert normalize(TEXT, name) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("well-known, a.b.", "well known a b"),
        ("the dogs' l'eau 'tis d'Artagnan’s", "the dogs l'eau tis d'Artagnan's"),
        ("3.5 is 3, 5. or 1,2", "3.5 is 3 5 or 1,2"),
        ("at 5:30, 1/2 of no.5: .5 (-5)", "at 5:30 1/2 of no 5 .5 -5"),
        ("1990-95 and... wait...5 -x", "1990 95 and wait 5 x"),
        ("R&B @ 5 #1 _x_", "R&B @ 5 #1 x"),
        ("$5 + 3°", "$5 + 3°"),  # signs, not punctuation
        ("¿Qué? «Sí»", "Qué Sí"),
        ("東京、です。", "東京 です"),
        ("हिन्दी में।", "हिन्दी में"),
        ("...", ""),
    ],
)
def test_punctuation(text: str, normal: str) -> None:
    assert normalize(text, "no-punctuation") == normal


@settings(max_examples=300)
@given(st.sampled_from(list(NORMALIZERS)), st.text())
def test_a_second_time_changes_nothing(name: str, text: str) -> None:
    once = normalize(text, name)
    assert normalize(once, name) == once
    assert name == "none" or once == " ".join(once.split())


def test_names() -> None:
    assert set(NORMALIZERS) == set(get_args(TextNormalizer))
    with pytest.raises(ConfigError, match=r"no text normalizer 'lowr' \(allowed: none, .*; did you mean 'lower'\?\)"):
        normalize("x", "lowr")
