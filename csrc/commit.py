"""Writes ocirt/_commit.py: the commit that is being built.

Usage: commit.py OUTPUT, or, when meson makes a source distribution, without: then the commit goes
into a file of the distribution, which has no history.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = "commit.txt"


def commit() -> str:
    if (ROOT / KEPT).exists():
        return (ROOT / KEPT).read_text().strip()
    if not (ROOT / ".git").exists():
        return "unknown"
    try:
        done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def main() -> None:
    if len(sys.argv) == 1:
        Path(os.environ["MESON_DIST_ROOT"], KEPT).write_text(commit() + "\n")
    else:
        Path(sys.argv[1]).write_text(f'COMMIT = "{commit()}"\n')


if __name__ == "__main__":
    main()
