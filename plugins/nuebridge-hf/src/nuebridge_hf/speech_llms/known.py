"""Whether the installed transformers knows a model."""

from __future__ import annotations

import transformers
from transformers import CONFIG_MAPPING

from nuebridge.errors import CheckpointError

TRIED_WITH = "5.23"
"""A release of transformers that knows all of these models."""


def need(model_type: str) -> None:
    """Raises CheckpointError where the installed transformers does not know ``model_type``."""
    if model_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"transformers {transformers.__version__} does not know models of type {model_type!r}; release "
            f"{TRIED_WITH} does: pip install 'transformers>={TRIED_WITH}'"
        )
