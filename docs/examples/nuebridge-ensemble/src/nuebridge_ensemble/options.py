"""Options that a registry entry may set."""

from __future__ import annotations

from typing import Literal

from nuebridge.settings import Settings
from pydantic import Field


class EnsembleOptions(Settings):
    """Options of ``ensemble.encoders``."""

    encoders: tuple[str, ...] = Field(default=())
    """Two encoders or more, by whatever a name of one may be: an entry of the registry, a folder, a hub id,
    COMPONENT:SOURCE. Paths that begin with ./ or ../ start in the entry's ``source``. Empty where that is a saved
    ensemble."""
    combine: Literal["concatenate", "sum"] | None = None
    """Frames side by side, or added up, which takes encoders of one width. Null: as the saved ensemble has it, side by
    side for a new one."""
    rate: Literal["slowest", "fastest"] | None = None
    """Whose frames the others are brought to. Null: as the saved ensemble has it, the slowest for a new one."""
