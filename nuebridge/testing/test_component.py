"""What ``pytest --pyargs nuebridge.testing --component PLUGIN.NAME`` collects; see nuebridge.testing.plugin."""

from __future__ import annotations

from typing import Any

import pytest

from nuebridge.testing.rules import Check, NotApplicable
from nuebridge.testing.subject import Subject


def test_conforms(subject: Subject, check: Check[Any]) -> None:
    """One rule of the contracts."""
    try:
        check(subject)
    except NotApplicable as reason:
        pytest.skip(str(reason))
