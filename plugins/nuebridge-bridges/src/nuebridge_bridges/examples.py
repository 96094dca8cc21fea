"""Small options of every bridge, by component and name: what the conformance suite tests them with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SMALL = {"hidden_size": 24, "layers": 2, "heads": 4, "intermediate_size": 32}

EXAMPLES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "conv": {
        "two-layers": {},
        "uneven": {"kernel_sizes": [3, 5, 2], "strides": [2, 1, 3]},
    },
    "stacking": {
        "two-layers": {"frames": 5, "hidden_size": 32},
        "linear": {"frames": 4, "hidden_size": None},
    },
    "mean-pooling": {
        "projected": {},
        "bare": {"frames": 3, "projection": False},
    },
    "ctc": {
        "averaged": {"runs": "average"},
        "weighted": {"runs": "weighted"},
        "without-blanks": {"runs": "keep", "drop_blanks": True},
        "weighted-without-blanks": {"runs": "weighted", "drop_blanks": True},
    },
    "cif": {
        "projected": {},
        "wide": {"kernel_size": 5},
    },
    "conv-transformer": {
        "small": {**_SMALL},
        "uneven": {**_SMALL, "kernel_sizes": [3], "strides": [2], "layers": 1},
    },
    "q-former": {
        "salmonn": {**_SMALL},
        "granite": {**_SMALL, "window": 15, "queries": 3, "normalize_input": False},
    },
}
