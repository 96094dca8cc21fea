from __future__ import annotations

import pytest
from pydantic import ValidationError

from nuebridge.settings import CtcVocabulary, PromptTemplate, TokenBudget


def test_fields_in_order_of_appearance() -> None:
    template = PromptTemplate(prefix="<s>{context} {{literal}}", suffix="{language}{context}:")
    assert template.fields == ("context", "language")
    assert PromptTemplate().fields == ()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"prefix": "{speaker}"}, "declares the field 'speaker'; known fields: language, task, context"),
        ({"prefix": "{}"}, "declares the field ''"),
        ({"prefix": "{language.__class__}"}, "declares the field 'language.__class__'"),
        ({"prefix": "{language[0]}"}, "declares the field"),
        ({"prefix": "a { b"}, "unmatched brace"),
        ({"suffix": "}"}, "unmatched brace"),
        ({"prefix": "{language!r}"}, "'language' is written with a format; write {language} alone"),
        ({"prefix": "{language:>{task}}"}, "written with a format"),
        ({"defaults": {"task": "x"}}, "default is given for 'task', which the prompt does not declare"),
        ({"middle": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_templates_that_cannot_be(template: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("{", r"\{")):
        PromptTemplate.model_validate(template)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PromptTemplate().prefix = "x"


def test_token_budget() -> None:
    budget = TokenBudget(per_second=4, plus=20.5)
    assert [budget.tokens(seconds) for seconds in (0.0, 0.1, 0.125, 1.0, 30.0)] == [20, 20, 21, 24, 140]
    assert TokenBudget(per_second=0, plus=1).tokens(100) == 1


@pytest.mark.parametrize(("symbols", "said"), [(["a", "b", "a"], "twice"), (["a", ""], "empty"), ([], "at least 1")])
def test_vocabularies_that_cannot_be(symbols: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CtcVocabulary.model_validate({"symbols": symbols})


def test_a_string_stands_for_its_characters() -> None:
    assert CtcVocabulary.model_validate({"symbols": " ab"}).symbols == (" ", "a", "b")
