"""podman as an ordinary user with subordinate ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.host import USER_ID, wait_for
from tests.engines.images import FETCH, IMAGE


def test_run_is_root_inside_and_the_user_outside(rootless):
    container = rootless("run", "-d", IMAGE, "sleep", "1000").stdout.strip()
    try:
        status = Path(f"/proc/{rootless.pid(container)}/status").read_text()
        assert f"Uid:\t{USER_ID}\t{USER_ID}\t{USER_ID}\t{USER_ID}" in status
        maps = rootless("exec", container, "sh", "-c", "id -u; cat /proc/self/uid_map").stdout.split()
        assert maps[:4] == ["0", "0", str(USER_ID), "1"]
        assert rootless("exec", container, "sh", "-c", "exit 6", check=False).returncode == 6
    finally:
        rootless.remove(container)


def test_run_passes_output_and_status(rootless):
    done = rootless("run", "--rm", IMAGE, "sh", "-c", "echo out; exit 3", check=False)
    assert (done.stdout, done.returncode) == ("out\n", 3)


def test_run_it_gives_a_terminal(rootless):
    terminal = rootless.terminal("run", "-it", "--rm", IMAGE, "sh", size=(24, 80))
    try:
        terminal.read_until("# ")
        terminal.type("tty; stty size; exit 5\n")
        terminal.read_until("/dev/pts/0\n24 80\n")
        assert terminal.wait() == 5
    finally:
        terminal.close()


@pytest.mark.slow
def test_missing_command_is_127_and_an_unfit_one_126(rootless):
    assert rootless("run", "--rm", IMAGE, "nosuchcommand", check=False).returncode == 127
    assert rootless("run", "--rm", IMAGE, "/bin/notexec", check=False).returncode == 126


@pytest.mark.slow
def test_another_user_of_the_image_is_a_subordinate_id(rootless):
    done = rootless(
        "run", "--rm", "--user", "user", IMAGE, "sh", "-c", "id -u; touch /home/user/x && echo made"
    )
    assert done.stdout == "1000\nmade\n"


@pytest.mark.slow
def test_keep_id_gives_the_callers_id(rootless):
    done = rootless("run", "--rm", "--userns", "keep-id", IMAGE, "id", "-u")
    assert done.stdout == f"{USER_ID}\n"


@pytest.mark.slow
@pytest.mark.parametrize("network", ["none", "host", "slirp4netns"])
def test_network(rootless, network):
    assert rootless("run", "--rm", "--network", network, IMAGE, "ip", "-o", "link").stdout.count("lo:") == 1


@pytest.mark.slow
def test_privileged_and_read_only_run(rootless):
    assert rootless("run", "--rm", "--privileged", IMAGE, "echo", "ok").stdout == "ok\n"
    script = "touch /x 2>/dev/null || echo read-only"
    assert rootless("run", "--rm", "--read-only", IMAGE, "sh", "-c", script).stdout == "read-only\n"


@pytest.mark.slow
def test_stop_and_kill(rootless):
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    rootless("run", "-d", "--name", "stopped", IMAGE, "sh", "-c", script)
    wait_for(lambda: "ready" in rootless("logs", "stopped").stdout, "the trap")
    rootless("stop", "stopped")
    assert rootless("inspect", "--format", "{{.State.ExitCode}}", "stopped").stdout == "3\n"
    rootless("rm", "stopped")


@pytest.mark.slow
def test_pod_shares_the_network(rootless):
    rootless("pod", "create", "--name", "together")
    try:
        rootless("run", "-d", "--pod", "together", IMAGE, "httpd", "-f", "-p", "8080", "-h", "/www")
        done = rootless("run", "--rm", "--pod", "together", IMAGE, "sh", "-c", FETCH)
        assert done.stdout == "served from the container\n"
    finally:
        rootless.remove("together", pod=True)
