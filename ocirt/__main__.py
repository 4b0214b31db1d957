"""python -m ocirt: the command, also where the native launcher is not installed."""

from __future__ import annotations

import sys

from ocirt.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
