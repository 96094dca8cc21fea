from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from nuebridge.bench import Meter


def test_it_counts_what_is_between_begin_and_end() -> None:
    meter = Meter(torch.device("cpu"))
    meter.count(100, 200)
    time.sleep(0.2)
    meter.begin()
    meter.count(30, 40)
    meter.count(60, 60)
    started = time.process_time()
    while time.process_time() - started < 0.05:
        pass
    meter.end()
    meter.count(1, 1)
    figures = meter.figures
    assert (figures["steps"], figures["samples"], figures["computed"]) == (2, 90, 100)
    assert 0.05 <= float(figures["cpu_seconds"]) <= float(figures["wall_seconds"]) * 64
    assert float(figures["cpu_seconds"]) < 0.2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks begin anew on Linux only")
def test_the_peak_is_that_of_the_measurement() -> None:
    meter = Meter(torch.device("cpu"))
    size = 64 * 2**20
    before = torch.ones(4 * size // 4)  # 256 MiB that are gone when it begins
    del before
    meter.begin()
    held = torch.ones(size // 4)
    meter.end()
    figures = meter.figures
    assert figures["peak_since"] == "the measurement began"
    more = int(figures["peak_bytes"]) - meter.loaded_bytes
    assert size * 0.9 < more < 2 * size, held.shape


def test_it_is_used_in_order() -> None:
    meter = Meter(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="has not begun"):
        meter.end()
    meter.begin()
    with pytest.raises(RuntimeError, match="has not ended"):
        _ = meter.figures
    with pytest.raises(RuntimeError, match="begun already"):
        meter.begin()
