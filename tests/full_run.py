"""Runs every test, the slow ones too, and writes docs/last-full-run.json.

Usage: full_run.py [pytest arguments]. The file names the commit and each case that failed or was
skipped, with the reason; its exit status is pytest's.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Record:
    """Counts outcomes and keeps what did not pass."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.not_passed: list[dict[str, str]] = []

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        outcome = report.outcome if report.when == "call" or report.skipped else "error"
        if hasattr(report, "wasxfail"):
            outcome = "xpassed" if report.passed else "xfailed"
        self._count(outcome)
        if outcome != "passed":
            self.not_passed.append({"case": report.nodeid, "outcome": outcome, "reason": reason(report)})

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self._count(report.outcome if report.skipped else "error")
            self.not_passed.append(
                {"case": report.nodeid, "outcome": report.outcome, "reason": reason(report)}
            )


def reason(report: Any) -> str:
    """One line: why a case was skipped, or what failed."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr or "")
    return text.strip().splitlines()[0] if text.strip() else ""


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()


def main() -> int:
    record = Record()
    started = time.time()
    status = pytest.main(["-m", "slow or not slow", *sys.argv[1:]], plugins=[record])
    changed = [line[3:] for line in git("status", "--porcelain").splitlines()]
    document = {
        "commit": git("rev-parse", "HEAD"),
        "uncommitted": [path for path in changed if path != "docs/last-full-run.json"],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "machine": f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}",
        "counts": dict(sorted(record.counts.items())),
        "not_passed": record.not_passed,
    }
    (ROOT / "docs/last-full-run.json").write_text(json.dumps(document, indent=2) + "\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
