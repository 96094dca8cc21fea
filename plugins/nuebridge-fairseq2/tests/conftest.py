"""These tests run where fairseq2 does (`make test-fairseq2`); those of the environment's faults run everywhere."""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"

sys.path.append(str(SOURCE))  # for the environments that the plugin is not installed in

from nuebridge_fairseq2.environment import fault  # noqa: E402

collect_ignore_glob = [] if fault() is None else ["test_with_fairseq2_*.py"]
