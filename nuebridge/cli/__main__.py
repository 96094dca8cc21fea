"""``python -m nuebridge.cli``."""

from nuebridge.cli import main

main()
