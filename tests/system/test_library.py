"""`import ocirt` in somebody else's program: threads, asyncio, its own children, its fds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle
from tests.lib.leaks import cgroups_named
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

SOURCE = Path(__file__).parents[2]
HOST = Path(__file__).parents[1] / "lib" / "library_host.py"


@pytest.mark.parametrize(
    "scenario",
    [
        "lifecycle", "statuses", "threads", "wait_of_the_host", "under_asyncio", "failures", "surroundings",
        "large_host", "early_failures", "forks",
    ],
)  # fmt: skip
def test_a_program_uses_it(scenario: str, runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("/bin/sleep", "60").write()
    prefix = runtime.new_id()
    done = subprocess.run(
        [sys.executable, "-B", "-X", "dev", "-W", "error", HOST, scenario, bundle.path, runtime.root, prefix],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    for name in os.listdir(runtime.root) if runtime.root.exists() else ():
        runtime.ids.append(name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert cgroups_named(prefix) == []
