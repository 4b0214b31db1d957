"""buildah: from, run and commit; bud."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.engines import Buildah
from tests.engines.host import SHARE
from tests.engines.images import IMAGE


@pytest.fixture
def working(buildah: Buildah) -> Iterator[str]:
    name = buildah("from", IMAGE).stdout.strip()
    yield name
    buildah("rm", name)


def test_what_run_wrote_is_in_the_committed_image(buildah, podman, working):
    buildah.run(working, "sh", "-c", "echo built > /built; id -u >> /built")
    buildah("commit", "-q", working, "localhost/octest-built")
    assert podman("run", "--rm", "localhost/octest-built", "cat", "/built").stdout == "built\n0\n"
    podman("rmi", "localhost/octest-built")


def test_run_passes_the_status(buildah, working):
    assert buildah.run(working, "sh", "-c", "exit 7", check=False).returncode == 7
    done = buildah.run(working, "nosuchcommand", check=False)
    assert done.returncode != 0
    assert "nosuchcommand" in done.stderr


@pytest.mark.slow
def test_run_on_a_terminal(buildah, working):
    words = ("run", "--runtime", buildah.runtime, "--terminal", working, "--", "tty")
    terminal = buildah.terminal(*words)
    try:
        assert terminal.wait() == 0
        assert terminal.seen.endswith("/dev/pts/0\n")
    finally:
        terminal.close()


@pytest.mark.slow
def test_run_takes_user_and_volume(buildah, working, share):
    (share / "file").write_text("from the host\n")
    options = ("--user", "user", "-v", f"{SHARE / share.name}:/in:ro")
    done = buildah.run(working, "sh", "-c", "id -u; cat /in/file", options=options)
    assert done.stdout == "1000\nfrom the host\n"


@pytest.mark.slow
def test_bud_runs_the_commands_of_a_containerfile(buildah, podman, share):
    (share / "Containerfile").write_text(
        f"FROM {IMAGE}\nRUN echo built > /built\nUSER user\nRUN id -u > /tmp/id\n"
    )
    buildah("bud", "--runtime", buildah.runtime, "-t", "localhost/octest-bud", SHARE / share.name)
    done = podman("run", "--rm", "localhost/octest-bud", "cat", "/built", "/tmp/id")
    assert done.stdout == "built\n1000\n"
    podman("rmi", "localhost/octest-bud")
