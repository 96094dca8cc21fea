"""Watching a run: ``watcher`` gathers what steps give, the ``terminal`` shows it, and ``loggers`` pass it on."""

from nuebridge.train.watching.loggers import check_loggers
from nuebridge.train.watching.terminal import line_handler
from nuebridge.train.watching.watcher import Watcher

__all__ = ["Watcher", "check_loggers", "line_handler"]
