from __future__ import annotations

import subprocess
import sys

from nuebridge.plugins import PluginManager


def test_it_is_found() -> None:
    manager = PluginManager.discover({"NUEBRIDGE_STRICT": "1"})
    (report,) = [report for report in manager.reports() if report.name == "ensemble"]
    assert report.distribution == "nuebridge-ensemble"
    assert {ref.id for ref in report.components} == {"ensemble.encoders", "ensemble.log-mel"}


def test_its_entry_module_is_light() -> None:
    """It is imported whenever nuebridge starts: what takes time is imported when it is needed."""
    heavy = ["numpy", "torch", "transformers"]
    code = f"import sys, nuebridge_ensemble; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
