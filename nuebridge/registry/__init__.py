"""The registry: which encoders, bridges, decoders, CTC heads and integrations there are, by name.

Data only, in layers: packaged < contributed by plugins < the user's configuration folder <
``./registry.yaml`` < ``--registry FILE``. An entry replaces one of a lower layer only where it says
``replaces: true``; two entries that say the same are no clash. Widths and frame rates are never
written here: parts know their own.
"""

from nuebridge.registry.entries import (
    FROM_ENCODER,
    SECTIONS,
    BridgeEntry,
    CtcHeadEntry,
    DecoderEntry,
    EncoderEntry,
    Entry,
    IntegrationEntry,
    SourcedEntry,
    WeightsSource,
    is_local,
)
from nuebridge.registry.layers import FILE_NAME, Layer, Located, default_layers, packaged_file
from nuebridge.registry.lookup import Registry

__all__ = [
    "FILE_NAME",
    "FROM_ENCODER",
    "SECTIONS",
    "BridgeEntry",
    "CtcHeadEntry",
    "DecoderEntry",
    "EncoderEntry",
    "Entry",
    "IntegrationEntry",
    "Layer",
    "Located",
    "Registry",
    "SourcedEntry",
    "WeightsSource",
    "default_layers",
    "is_local",
    "packaged_file",
]
