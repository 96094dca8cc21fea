"""The plugin host: finds plugins through entry points, loads each alone, and hands out what they offer.

A plugin that cannot be used never stops another: it is recorded with the reason, and the reason is
raised only when something of that plugin is asked for. The host names no plugin and imports nothing
but a plugin's entry module; implementations are imported by :meth:`ComponentRef.load`.
"""

from nuebridge.plugins.manager import INSTALL_DEFAULTS, PluginManager
from nuebridge.plugins.records import HOOKS, ComponentRef, PluginReport, PluginState

__all__ = ["HOOKS", "INSTALL_DEFAULTS", "ComponentRef", "PluginManager", "PluginReport", "PluginState"]
