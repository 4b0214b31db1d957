"""What is told when undoing a failed create fails as well, and in which words."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

# podman makes 126 and 127 of these, from any line of a failed call.
WORDS = (
    "permission denied",
    "operation not permitted",
    "no such file or directory",
    "executable file not found in",
)


@pytest.fixture
def failing(bundle: Bundle) -> Bundle:
    """prestart fails, and then each poststop hook, in the words that engines look for."""
    hooks = bundle.spec["hooks"] = {"prestart": [{"path": "/bin/false"}], "poststop": []}
    hooks["poststop"].append({"path": "/nosuch/hook"})
    for i, words in enumerate(WORDS):
        path = bundle.path / f"hook{i}"
        path.write_text(f"#!/bin/sh\necho '{words.title()} $PATH' >&2\nexit 1\n")
        path.chmod(0o755)
        hooks["poststop"].append({"path": str(path)})
    return bundle


def test_a_failed_undo_is_told_after_the_failure(runtime: Runtime, failing: Bundle) -> None:
    done = runtime.run(failing)
    error, *warnings = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith("hooks.prestart[0] (/bin/false): exit status 1")
    assert [line.split(" ")[:2] for line in warnings] == [
        ["warning:", f"hooks.poststop[{i}]"] for i in range(1 + len(WORDS))
    ]
    assert not any(words in done.stderr.lower() for words in WORDS)


def test_the_json_log_of_a_failed_call_is_one_object(
    runtime: Runtime, failing: Bundle, tmp_path: Path
) -> None:
    """podman reads the whole file as one; of its members only msg."""
    log = tmp_path / "log"
    failing.write()
    words = "--log", log, "--log-format", "json", "run", "--bundle", failing.path, runtime.new_id()
    assert runtime(*words).returncode == 1
    record = json.loads(log.read_text())
    assert record["level"] == "error"
    assert record["msg"].startswith("hooks.prestart[0]")
    assert len(record["warnings"]) == 1 + len(WORDS)
    assert "hooks.poststop[0] (/nosuch/hook): ENOENT" in record["warnings"][0]


@pytest.mark.parametrize("fds", range(9, 30))
def test_where_fds_run_out_nothing_is_left_and_the_field_is_named(
    runtime: Runtime, bundle: Bundle, fds: int
) -> None:
    def limit() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fds, hard))

    done = runtime.run(bundle, preexec_fn=limit)
    if done.returncode:
        error, *warnings = done.stderr.splitlines()
        assert warnings == []
        assert error.endswith(": Too many open files")
    assert [path.name for path in runtime.root.iterdir()] == []
