"""Encoder x bridge x decoder: every pair of neighbours composes, learns, comes back from disk and transcribes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nuebridge.testing.integrations import need_batch_invariance, need_learning, need_round_trip
from tests.conformance.combinations import (
    Combination,
    bridges,
    composed,
    decoders,
    encoders,
    manager,
    quick,
    registry,
    table,
)

if not table():
    pytest.skip("this repository's plugins are not installed", allow_module_level=True)


@pytest.mark.parametrize(
    "combination",
    [pytest.param(one, id=str(one), marks=[] if one in quick() else [pytest.mark.conformance]) for one in table()],
)
def test_a_combination(combination: Combination, tmp_path: Path) -> None:
    integration = composed(combination)
    whole = table().index(combination) % 3 == 0
    need_learning(integration, trained={"encoder": whole, "decoder": whole})
    need_round_trip(integration, tmp_path, manager(), registry())
    need_batch_invariance(integration)


def test_the_table_covers_every_pair_of_neighbours() -> None:
    found = table()
    assert {(one.encoder, one.bridge) for one in found} == {(e, b) for e in encoders() for b in bridges()}
    assert {(one.bridge, one.decoder) for one in found} == {(b, d) for b in bridges() for d in decoders()}
    assert len(found) == len(set(map(str, found))) >= 60
    assert {one.bridge.component for one in quick()} == {one.component for one in bridges()}
    assert {one.encoder.component for one in quick()} == {one.component for one in encoders()}
