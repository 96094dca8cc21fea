"""The errors that nuebridge raises on purpose.

Every message says what is wrong, with which value, and what to do next. The command line prints
such a message alone, without a traceback, and leaves with the error's ``exit_status``.
"""

from __future__ import annotations


class NuebridgeError(Exception):
    """Base of every error a user can cause or mend."""

    exit_status = 2


class ConfigError(NuebridgeError):
    """A configuration file, registry file or option does not hold what it should."""


class RegistryError(ConfigError):
    """A name is not in the registry, or two registry layers contradict each other."""


class PluginError(NuebridgeError):
    """A plugin is missing, broken, of another contract version or in conflict with another."""


class SizeMismatchError(NuebridgeError):
    """Two parts that should join do not fit; the message names both sides."""


class PromptError(NuebridgeError):
    """The prompt template and the fields given for it do not agree, or the prompt is too long."""


class AudioError(NuebridgeError):
    """A recording cannot be read as audio."""

    exit_status = 1


class AudioTooShortError(AudioError):
    """A recording is shorter than one position of the bridge needs."""


class DataError(NuebridgeError):
    """A manifest or a line of it cannot be used."""


class CheckpointError(NuebridgeError):
    """A checkpoint is missing, incomplete, damaged or not of a known format."""


class TrainingError(NuebridgeError):
    """Training cannot start or cannot go on."""


class NumericalError(NuebridgeError):
    """A model produced non-finite numbers."""
