"""``nuebridge plugins new``: a complete plugin package with working parts, to be changed into one's own.

The texts are in ``templates/``, with ``$name`` where something of the package goes. This room knows the hooks and
which files belong to which; it imports no torch.
"""

from nuebridge.scaffold.kinds import KINDS, Kind
from nuebridge.scaffold.names import PackageNames, check_free
from nuebridge.scaffold.writing import NewPlugin, chosen_kinds, new_plugin, render

__all__ = ["KINDS", "Kind", "NewPlugin", "PackageNames", "check_free", "chosen_kinds", "new_plugin", "render"]
