"""Every component of this repository's plugins keeps the contracts, with each of its examples."""

from __future__ import annotations

import pytest

from nuebridge.testing import conformance
from tests.conformance.combinations import every_component

for number, component in enumerate(every_component()):
    globals()[f"Test{number}_{component.replace('.', '_').replace('-', '_')}"] = conformance(component)

if not every_component():
    pytest.skip("no plugin of this repository is installed", allow_module_level=True)
