"""The conformance suite passes what keeps the contracts and finds what does not: one fault a rule, or several."""

from __future__ import annotations

import pytest
from toy.parts import ToyBridge, ToyDecoder, ToyEncoder

from nuebridge.testing.rules import Broken, NotApplicable
from nuebridge.testing.suite import checks
from tests.testing.faults import FAULTS, Fault, subject

CHECKS = {kind: {check.name: check for check in checks(subject(kind))} for kind in (ToyEncoder, ToyBridge, ToyDecoder)}


def kind_of(part: type) -> type:
    return next(kind for kind in CHECKS if issubclass(part, kind))


@pytest.mark.parametrize("kind", CHECKS, ids=lambda kind: kind.__name__)
def test_toys_keep_every_rule(kind: type) -> None:
    left_out = []
    toy = subject(kind)
    for name, check in CHECKS[kind].items():
        try:
            check(toy)
        except NotApplicable:
            left_out.append(name)
    assert left_out == (["outline_agrees_with_load"] if kind is ToyDecoder else [])


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_found(fault: Fault) -> None:
    check = CHECKS[kind_of(fault.part)][fault.check]
    with pytest.raises(Broken, match=fault.found) as caught:
        check(subject(fault.part, fault.options))
    assert str(caught.value).endswith(f"The contract: {check.sentence}")
    assert len(check.sentence.split()) > 5


def test_every_rule_has_a_fault_that_breaks_it() -> None:
    broken = {fault.check for fault in FAULTS}
    rules = {name for found in CHECKS.values() for name in found}
    assert rules == broken
