"""docker: its bridge network is made by a prestart hook, its state path has 110 bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.engines import Docker
from tests.engines.host import SHARE, cgroup_value, wait_for
from tests.engines.images import IMAGE

TRAP = "trap 'echo got term; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
COUNT = "while :; do echo again; sleep 0.05; done"
PAGE = "served from the container\n"


@pytest.fixture
def sleeper(docker: Docker) -> Iterator[str]:
    """A running container that does nothing."""
    options = ("--ipc", "shareable", "--hostname", "sleeper")
    container = docker("run", "-d", *options, IMAGE, "sleep", "1000").stdout.strip()
    yield container
    docker("rm", "-f", container)


def in_container(docker: Docker, *options: object, script: str) -> str:
    return docker("run", "--rm", *options, IMAGE, "sh", "-c", script).stdout


def test_run_shows_both_streams_and_passes_the_exit_status(docker):
    done = docker("run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert docker("run", "-i", "--rm", IMAGE, "cat", input="from outside\n").stdout == "from outside\n"


def test_the_bridge_network_works_in_both_directions(docker):
    container = docker("run", "-d", IMAGE, "httpd", "-f", "-p", "80", "-h", "/www").stdout.strip()
    try:
        address = docker.inspect(container, "{{.NetworkSettings.IPAddress}}")
        gateway = docker.inspect(container, "{{.NetworkSettings.Gateway}}")
        fetch = ("busybox", "wget", "-qO-", f"http://{address}/index.html")
        wait_for(lambda: docker.host.run(*fetch, check=False).stdout == PAGE, "the page")
        docker("exec", container, "ping", "-c", "1", "-W", "5", gateway)
        done = docker("run", "--rm", IMAGE, "wget", "-qO-", f"http://{address}/index.html")
        assert done.stdout == PAGE
    finally:
        docker("rm", "-f", container)


def test_run_it_gives_a_terminal_that_follows_the_size_of_the_callers(docker):
    terminal = docker.terminal("run", "-it", "--rm", IMAGE, "sh", size=(24, 80))
    try:
        terminal.read_until("# ")
        terminal.type("sleep 0.3; tty; stty size\n")
        terminal.read_until("/dev/pts/0\n24 80\n")
        terminal.resize(31, 101)
        terminal.type("sleep 0.5; stty size; exit 5\n")
        terminal.read_until("31 101\n")
        assert terminal.wait() == 5
    finally:
        terminal.close()


def test_exec_runs_beside_the_container_and_passes_the_status(docker, sleeper):
    done = docker("exec", "-i", sleeper, "sh", "-c", "hostname; cat; exit 9", input="typed\n", check=False)
    assert (done.returncode, done.stdout) == (9, "sleeper\ntyped\n")


def test_exec_it_gives_a_terminal(docker, sleeper):
    terminal = docker.terminal("exec", "-it", sleeper, "sh", size=(20, 70))
    try:
        terminal.read_until("# ")
        terminal.type("sleep 0.3; tty; stty size; exit 4\n")
        terminal.read_until("/dev/pts/0\n20 70\n")
        assert terminal.wait() == 4
    finally:
        terminal.close()


def test_missing_command_is_127_and_an_unfit_one_126(docker):
    done = docker("run", "--rm", IMAGE, "nosuchcommand", check=False)
    assert done.returncode == 127, done.stderr
    assert '"nosuchcommand": executable file not found in $PATH' in done.stderr
    done = docker("run", "--rm", IMAGE, "/no/such/command", check=False)
    assert done.returncode == 127, done.stderr
    done = docker("run", "--rm", IMAGE, "/bin/notexec", check=False)
    assert done.returncode == 126, done.stderr


@pytest.mark.slow
def test_exec_of_a_missing_command_is_127_and_of_an_unfit_one_126(docker, sleeper):
    # 126 for both: this docker takes exec's missing command for one that cannot be invoked.
    assert docker("exec", sleeper, "nosuchcommand", check=False).returncode == 126
    assert docker("exec", sleeper, "/bin/notexec", check=False).returncode == 126


def test_memory_limit_is_in_the_control_file(docker):
    options = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "50")
    container = docker("run", "-d", *options, IMAGE, "sleep", "1000").stdout.strip()
    pid = int(docker.inspect(container, "{{.State.Pid}}"))
    assert cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max") == "67108864"
    assert cgroup_value(pid, "pids", "pids.max", "pids.max") == "50"
    assert cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    docker("rm", "-f", container)


def test_stop_sends_term_kill_ends_at_once_and_rm_f_removes(docker):
    docker("run", "-d", "--name", "stopped", IMAGE, "sh", "-c", TRAP)
    wait_for(lambda: "ready" in docker("logs", "stopped").stdout, "the trap")
    docker("stop", "-t", "10", "stopped")
    assert docker("logs", "stopped").stdout == "ready\ngot term\n"
    assert docker.inspect("stopped", "{{.State.ExitCode}}") == "3"
    docker("start", "stopped")
    docker("kill", "stopped")
    assert docker("wait", "stopped").stdout == "137\n"
    docker("start", "stopped")
    pid = int(docker.inspect("stopped", "{{.State.Pid}}"))
    docker("rm", "-f", "stopped")
    assert not Path(f"/proc/{pid}").exists()


def test_update_changes_the_limits_of_what_runs(docker, sleeper):
    pid = int(docker.inspect(sleeper, "{{.State.Pid}}"))
    docker("update", "-m", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--pids-limit", "50", sleeper)
    docker("update", "--cpu-shares", "300", sleeper)
    assert cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max") == "67108864"
    assert cgroup_value(pid, "pids", "pids.max", "pids.max") == "50"
    assert cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert cgroup_value(pid, "cpu", "cpu.shares", "cpu.weight") in ("300", "39")


def test_pause_stops_what_runs_until_unpause_and_top_shows_it(docker):
    docker("run", "-d", "--name", "paused", IMAGE, "sh", "-c", COUNT)
    try:
        wait_for(lambda: docker("logs", "paused").stdout, "the first count")
        assert COUNT in docker("top", "paused").stdout
        docker("pause", "paused")
        assert docker.inspect("paused", "{{.State.Status}}") == "paused"
        assert docker("exec", "paused", "true", check=False).returncode != 0
        before = docker("logs", "paused").stdout
        docker.host.run("sleep", "0.3")
        assert docker("logs", "paused").stdout == before
        docker("unpause", "paused")
        wait_for(lambda: docker("logs", "paused").stdout != before, "more counts")
        docker("pause", "paused")
    finally:
        docker("rm", "-f", "paused")


@pytest.mark.slow
def test_memory_limit_ends_a_process_that_takes_more(docker):
    options = ("-m", "16m", "--memory-swap", "16m", "--name", "hungry")
    # The wait is for containerd, which watches for it only some time after the start.
    script = "sleep 0.5; dd if=/dev/zero of=/dev/null bs=100M count=1"
    assert docker("run", *options, IMAGE, "sh", "-c", script, check=False).returncode == 137
    assert docker.inspect("hungry", "{{.State.OOMKilled}}") == "true"
    docker("rm", "hungry")


@pytest.mark.slow
def test_read_only_tmpfs_and_volumes_are_mounted_as_asked(docker, share):
    (share / "file").write_text("from the host\n")
    inside = SHARE / share.name
    options = ("--read-only", "--tmpfs", "/scratch:rw,size=1m,mode=1770", "-v", f"{inside}:/rw")
    script = (
        "touch /new 2>/dev/null || echo root is read-only;"
        "touch /ro/new 2>/dev/null || echo volume is read-only;"
        "cat /ro/file; echo written > /rw/out; touch /scratch/new && stat -c %a /scratch"
    )
    out = in_container(docker, *options, "-v", f"{inside}:/ro:ro", script=script)
    assert out.splitlines() == ["root is read-only", "volume is read-only", "from the host", "1770"]
    assert (share / "out").read_text() == "written\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "script", "output"),
    [
        (("--user", "user", "--group-add", "2001"), "id -u; id -G", "1000\n1000 2000 2001\n"),
        (("--workdir", "/tmp/new"), "pwd", "/tmp/new\n"),
        (("--hostname", "named"), "hostname", "named\n"),
        (("--ulimit", "nofile=100:200"), "ulimit -Sn; ulimit -Hn", "100\n200\n"),
        (("--oom-score-adj", "500"), "cat /proc/self/oom_score_adj", "500\n"),
        (("--sysctl", "kernel.msgmax=65536"), "cat /proc/sys/kernel/msgmax", "65536\n"),
        (("--network", "none"), "ls /sys/class/net", "lo\n"),
        (("--network", "host"), "ls /sys/class/net | grep -c docker0", "1\n"),
        (("--shm-size", "2m"), "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2", "2048\n"),
        (("--pid", "host"), "[ $(ls -d /proc/[0-9]* | wc -l) -gt 20 ] && echo many", "many\n"),
        (("--device", "/dev/net/tun:/dev/tun"), "stat -c %F /dev/tun", "character special file\n"),
        (
            ("--cap-drop", "ALL"),
            "grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f2 | uniq",
            "0000000000000000\n",
        ),
        (("--security-opt", "no-new-privileges"), "grep NoNewPrivs /proc/self/status | cut -f2", "1\n"),
        (("--security-opt", "seccomp=unconfined"), "grep Seccomp: /proc/self/status | cut -f2", "0\n"),
        ((), "grep Seccomp: /proc/self/status | cut -f2", "2\n"),
        (("--ipc", "none"), "test -e /dev/shm || echo none", "none\n"),
        (("--cgroupns", "private"), "tail -1 /proc/self/cgroup | cut -d: -f3", "/\n"),
        (("--init",), "cat /proc/1/comm", "docker-init\n"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_option_of_run_is_in_force(docker, options, script, output):
    assert in_container(docker, *options, script=script) == output


@pytest.mark.slow
def test_container_namespaces_can_be_joined(docker, sleeper):
    shared = [f"--{kind}=container:{sleeper}" for kind in ("pid", "ipc", "network")]
    assert "sleep 1000" in in_container(docker, *shared, script="ps")


@pytest.mark.slow
def test_published_port_reaches_the_container(docker):
    container = docker(
        "run", "-d", "-p", "18080:80", IMAGE, "httpd", "-f", "-p", "80", "-h", "/www"
    ).stdout.strip()
    gateway = docker.inspect(container, "{{.NetworkSettings.Gateway}}")
    fetch = ("busybox", "wget", "-qO-", f"http://{gateway}:18080/index.html")
    wait_for(lambda: docker.host.run(*fetch, check=False).stdout == PAGE, "the page")
    docker("rm", "-f", container)


@pytest.mark.slow
@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_build_runs_commands(docker, share, buildkit):
    (share / "Dockerfile").write_text(
        f"FROM {IMAGE}\nRUN echo built > /built\nUSER user\nRUN id -u > /tmp/id\n"
    )
    words = ("build", "--no-cache", "-t", "built", SHARE / share.name)
    docker(*words, env={"DOCKER_BUILDKIT": buildkit})
    assert docker("run", "--rm", "built", "cat", "/built", "/tmp/id").stdout == "built\n1000\n"
    docker("rmi", "-f", "built")


@pytest.mark.slow
def test_restart_policy_starts_the_container_again(docker):
    docker("run", "-d", "--name", "again", "--restart", "on-failure:2", IMAGE, "sh", "-c", "echo run; exit 1")
    wait_for(lambda: docker("logs", "again").stdout == "run\n" * 3, "three runs")
    docker("rm", "-f", "again")
