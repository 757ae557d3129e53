"""``python -m m3_core.cli`` is ``m3``."""

from m3_core.cli import main

main()
