"""podman as root: what its users see holds with the runtime under test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.engines import Podman
from tests.engines.host import SHARE, cgroup_value, wait_for
from tests.engines.images import FETCH, IMAGE

RUN = ("run", "--rm", IMAGE)
TRAP = "trap 'echo got term; exit 3' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def sleeper(podman: Podman) -> Iterator[str]:
    """A running container that does nothing."""
    container = podman("run", "-d", "--cpus", "0.5", "--hostname", "sleeper", IMAGE, "sleep", "1000").stdout
    yield container.strip()
    podman.remove(container.strip())


def in_container(podman: Podman, *options: object, script: str, check: bool = True) -> str:
    return podman("run", "--rm", *options, IMAGE, "sh", "-c", script, check=check).stdout


def test_run_shows_both_streams_and_passes_the_exit_status(podman):
    done = podman(*RUN, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_run_i_passes_stdin(podman):
    assert podman("run", "-i", "--rm", IMAGE, "cat", input="from outside\n").stdout == "from outside\n"


def test_run_it_gives_a_terminal_that_follows_the_size_of_the_callers(podman):
    terminal = podman.terminal("run", "-it", "--rm", IMAGE, "sh", size=(24, 80))
    try:
        terminal.read_until("# ")
        terminal.type("tty; stty size\n")
        terminal.read_until("/dev/pts/0\n24 80\n")
        terminal.resize(31, 101)
        terminal.type("sleep 0.5; stty size; exit 5\n")
        terminal.read_until("31 101\n")
        assert terminal.wait() == 5
    finally:
        terminal.close()


def test_run_of_a_missing_command_is_127(podman):
    done = podman(*RUN, "/no/such/command", check=False)
    assert done.returncode == 127, done.stderr
    assert "/no/such/command" in done.stderr
    assert podman(*RUN, "nosuchcommand", check=False).returncode == 127


def test_run_of_a_file_that_is_not_executable_is_126(podman):
    done = podman(*RUN, "/bin/notexec", check=False)
    assert done.returncode == 126, done.stderr
    assert "permission denied" in done.stderr.lower()


@pytest.mark.slow
def test_run_of_a_directory_is_126(podman):
    assert podman(*RUN, "/etc", check=False).returncode == 126


def test_exec_runs_beside_the_container_and_passes_the_status(podman, sleeper):
    done = podman("exec", sleeper, "sh", "-c", "hostname; echo $$; exit 9", check=False)
    assert done.returncode == 9
    assert done.stdout.split()[0] == "sleeper"
    assert podman("exec", "-i", sleeper, "cat", input="typed").stdout == "typed"


def test_exec_it_gives_a_terminal(podman, sleeper):
    terminal = podman.terminal("exec", "-it", sleeper, "sh", size=(20, 70))
    try:
        terminal.read_until("# ")
        terminal.type("tty; stty size; exit 4\n")
        terminal.read_until("/dev/pts/0\n20 70\n")
        assert terminal.wait() == 4
    finally:
        terminal.close()


def test_exec_of_a_missing_command_is_127(podman, sleeper):
    done = podman("exec", sleeper, "nosuchcommand", check=False)
    assert done.returncode == 127, done.stderr
    assert podman("exec", sleeper, "/bin/notexec", check=False).returncode == 126


@pytest.mark.slow
def test_exec_takes_user_directory_and_environment(podman, sleeper):
    options = ("--user", "user", "--workdir", "/tmp", "--env", "KEY=value")
    done = podman("exec", *options, sleeper, "sh", "-c", "id -u; pwd; echo $KEY")
    assert done.stdout.split() == ["1000", "/tmp", "value"]


@pytest.mark.slow
def test_exec_d_leaves_the_process_running(podman, sleeper):
    podman("exec", "-d", sleeper, "sh", "-c", "sleep 0.3; echo done > /tmp/later")
    wait_for(lambda: podman("exec", sleeper, "cat", "/tmp/later", check=False).stdout == "done\n", "the file")


def test_stop_sends_term_and_kill_ends_at_once(podman):
    podman("run", "-d", "--name", "stopped", IMAGE, "sh", "-c", TRAP)
    wait_for(lambda: "ready" in podman("logs", "stopped").stdout, "the trap")
    podman("stop", "-t", "10", "stopped")
    assert podman("logs", "stopped").stdout == "ready\ngot term\n"
    assert podman("inspect", "--format", "{{.State.ExitCode}}", "stopped").stdout == "3\n"
    podman("start", "stopped")
    podman("kill", "stopped")
    assert podman("wait", "stopped").stdout == "137\n"
    podman("rm", "stopped")


def test_rm_f_removes_a_running_container(podman):
    container = podman("run", "-d", IMAGE, "sleep", "1000").stdout.strip()
    pid = podman.pid(container)
    assert Path(f"/proc/{pid}").exists()
    podman.remove(container)
    assert not Path(f"/proc/{pid}").exists()


def test_pause_stops_what_runs_until_unpause(podman):
    script = "while :; do echo again; sleep 0.05; done"
    podman("run", "-d", "--name", "paused", IMAGE, "sh", "-c", script)
    wait_for(lambda: podman("logs", "paused").stdout, "the first line")
    podman("pause", "paused")
    assert podman("inspect", "--format", "{{.State.Status}}", "paused").stdout == "paused\n"
    before = podman("logs", "paused").stdout
    podman.host.run("sleep", "0.3")
    assert podman("logs", "paused").stdout == before
    podman("unpause", "paused")
    wait_for(lambda: podman("logs", "paused").stdout != before, "more lines")
    podman("pause", "paused")
    podman.remove("paused")


def test_update_changes_the_limits_of_what_runs(podman, sleeper):
    podman("update", "--memory", "64m", "--cpus", "0.25", "--cpu-shares", "300", sleeper)
    pid = podman.pid(sleeper)
    assert cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max") == "67108864"
    assert cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "25000"
    assert cgroup_value(pid, "cpu", "cpu.shares", "cpu.weight") in ("300", "39")


def test_memory_cpu_and_pids_limits_are_in_the_control_files(podman):
    options = ("--memory", "64m", "--cpus", "0.5", "--pids-limit", "50")
    container = podman("run", "-d", *options, IMAGE, "sleep", "1000").stdout.strip()
    pid = podman.pid(container)
    assert cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max") == "67108864"
    assert cgroup_value(pid, "pids", "pids.max", "pids.max") == "50"
    assert cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    podman.remove(container)


def test_a_pids_limit_of_minus_one_is_none(podman):
    done = podman("run", "--rm", "--pids-limit=-1", IMAGE, "sh", "-c", "/bin/true; echo forked")
    assert "forked" in done.stdout


@pytest.mark.slow
def test_pids_limit_stops_a_fork_bomb(podman):
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; echo started all"
    done = podman("run", "--rm", "--pids-limit", "5", IMAGE, "sh", "-c", script, check=False)
    assert "started all" not in done.stdout
    assert "can't fork" in done.stderr


@pytest.mark.slow
def test_memory_limit_ends_a_process_that_takes_more(podman):
    options = ("--memory", "16m", "--memory-swap", "16m")
    words = ("dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1")
    assert podman("run", "--rm", *options, IMAGE, *words, check=False).returncode == 137


def test_read_only_tmpfs_and_volumes_are_mounted_as_asked(podman, share):
    (share / "file").write_text("from the host\n")
    inside = SHARE / share.name
    options = ("--read-only", "--tmpfs", "/scratch:rw,size=1m,noexec,mode=1770")
    options += ("-v", f"{inside}:/rw", "-v", f"{inside}:/ro:ro")
    script = (
        "touch /new 2>/dev/null || echo root is read-only;"
        "touch /ro/new 2>/dev/null || echo volume is read-only;"
        "cat /ro/file; echo written > /rw/out;"
        "touch /scratch/new && stat -c %a /scratch; grep ' /scratch ' /proc/mounts"
    )
    lines = in_container(podman, *options, script=script).splitlines()
    assert lines[:4] == ["root is read-only", "volume is read-only", "from the host", "1770"]
    assert "tmpfs" in lines[4]
    assert "noexec" in lines[4]
    assert "size=1024k" in lines[4]
    assert (share / "out").read_text() == "written\n"


@pytest.mark.slow
def test_named_volumes_keep_their_content_between_containers(podman):
    in_container(podman, "-v", "kept:/kept", script="echo once > /kept/file")
    assert in_container(podman, "-v", "kept:/kept", script="cat /kept/file") == "once\n"
    podman("volume", "rm", "kept")


def test_uidmap_makes_root_an_ordinary_id_of_the_host(podman):
    maps = ("--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000")
    container = podman("run", "-d", *maps, IMAGE, "sleep", "1000").stdout.strip()
    script = "id -u; cat /proc/self/uid_map; touch /made && stat -c %u /made"
    assert podman("exec", container, "sh", "-c", script).stdout.split() == ["0", "0", "100000", "5000", "0"]
    status = Path(f"/proc/{podman.pid(container)}/status").read_text()
    assert "Uid:\t100000\t100000\t100000\t100000" in status
    assert "Gid:\t200000\t200000\t200000\t200000" in status
    podman.remove(container)


def test_containers_of_a_pod_share_namespaces(podman):
    podman("pod", "create", "--name", "together")
    try:
        server = ("httpd", "-f", "-p", "8080", "-h", "/www")
        first = podman("run", "-d", "--pod", "together", IMAGE, *server).stdout.strip()
        done = podman("run", "--rm", "--pod", "together", IMAGE, "sh", "-c", f"{FETCH}; hostname")
        assert done.stdout == "served from the container\ntogether\n"
        second = podman("run", "-d", "--pod", "together", IMAGE, "sleep", "1000").stdout.strip()
        pids = [podman.pid(container) for container in (first, second)]
        for kind, shared in {"net": True, "ipc": True, "uts": True, "mnt": False, "pid": False}.items():
            links = {Path(f"/proc/{pid}/ns/{kind}").readlink() for pid in pids}
            assert (len(links) == 1) == shared, kind
    finally:
        podman.remove("together", pod=True)


def test_the_bridge_network_reaches_the_container(podman):
    container = podman("run", "-d", IMAGE, "httpd", "-f", "-p", "80", "-h", "/www").stdout.strip()
    address = podman("inspect", "--format", "{{.NetworkSettings.IPAddress}}", container).stdout.strip()
    fetch = ("busybox", "wget", "-qO-", f"http://{address}/index.html")
    wait_for(lambda: podman.host.run(*fetch, check=False).stdout == "served from the container\n", "the page")
    podman.remove(container)


def test_capabilities_no_new_privileges_and_seccomp_are_those_asked_for(podman):
    script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
    lines = in_container(podman, script=script).split("\n")
    status = dict(line.split(":\t") for line in lines if line)
    assert status["CapEff"] == status["CapBnd"] == "00000000800405fb"
    assert status["CapInh"] == "0000000000000000"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("0", "2")
    options = (
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "seccomp=unconfined",
    )
    lines = in_container(podman, *options, script=script).split("\n")
    status = dict(line.split(":\t") for line in lines if line)
    assert status["CapEff"] == status["CapBnd"] == "0000000000000000"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "script", "output"),
    [
        (("--user", "user:extra", "--group-add", "2001"), "id -u; id -g; id -G", "1000\n2000\n2000 2001\n"),
        (("--workdir", "/home/user"), "pwd", "/home/user\n"),
        (("--env", "KEY=a b"), 'echo "$KEY"', "a b\n"),
        (("--hostname", "named.example"), "hostname", "named.example\n"),
        (("--umask", "0077"), "umask", "0077\n"),
        (
            ("--ulimit", "nofile=100:200", "--ulimit", "nproc=1000:1000"),
            "ulimit -Sn; ulimit -Hn",
            "100\n200\n",
        ),
        (("--oom-score-adj", "500"), "cat /proc/self/oom_score_adj", "500\n"),
        (("--sysctl", "kernel.msgmax=65536"), "cat /proc/sys/kernel/msgmax", "65536\n"),
        (("--network", "none"), "ls /sys/class/net; ip -o link | grep -c LOOPBACK,UP", "lo\n1\n"),
        (("--shm-size", "2m"), "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2", "2048\n"),
        (("--init", "--init-path", "/usr/bin/tini-static"), "cat /proc/1/comm", "podman-init\n"),
        (("--pid", "host"), "[ $(ls -d /proc/[0-9]* | wc -l) -gt 20 ] && echo many", "many\n"),
        (("--device", "/dev/net/tun:/dev/tun"), "stat -c %F /dev/tun", "character special file\n"),
        (("--security-opt", "mask=/etc/group"), "wc -c < /etc/group", "0\n"),
        (("--security-opt", "unmask=ALL"), "grep -c ' /proc/' /proc/mounts || true", "0\n"),
        (("--add-host", "other:192.0.2.2"), "grep -c other /etc/hosts", "1\n"),
        (("--privileged",), "grep CapEff /proc/self/status | cut -f2 | tail -c 5", "ffff\n"),
        (("--systemd", "always"), "mount | grep -c 'tmpfs on /run '", "1\n"),
        (("--uts", "host", "--ipc", "host"), "echo ok", "ok\n"),
        (("--cgroupns", "private"), "tail -1 /proc/self/cgroup | cut -d: -f3", "/\n"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_option_of_run_is_in_force(podman, options, script, output):
    assert in_container(podman, *options, script=script) == output


@pytest.mark.slow
def test_userns_auto_takes_a_range_of_its_own(podman):
    inside = in_container(podman, "--userns", "auto:size=4096", script="cat /proc/self/uid_map").split()
    assert inside[0] == "0"
    assert int(inside[1]) >= 7800000
    assert inside[2] == "4096"


@pytest.mark.slow
def test_container_namespaces_can_be_joined(podman, sleeper):
    shared = [f"--{kind}=container:{sleeper}" for kind in ("pid", "ipc", "network")]
    assert "sleep 1000" in in_container(podman, *shared, script="ps")


@pytest.mark.slow
def test_cgroups_disabled_leaves_the_container_in_its_parents_group(podman):
    if podman.runtime.name == "runc":
        pytest.skip("runc cannot")
    container = podman("run", "-d", "--cgroups", "disabled", IMAGE, "sleep", "1000").stdout.strip()
    assert "libpod" not in Path(f"/proc/{podman.pid(container)}/cgroup").read_text()
    podman.remove(container)


@pytest.mark.slow
def test_hooks_run_in_every_stage(podman, share):
    inside = SHARE / share.name
    stages = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    for stage in stages:
        script = (
            f"echo {stage} >> /hooks/ran" if stage == "startContainer" else f"echo {stage} >> {inside}/ran"
        )
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script]}
        document = {"version": "1.0.0", "hook": hook, "when": {"always": True}, "stages": [stage]}
        (share / f"{stage}.json").write_text(json.dumps(document))
    podman("--hooks-dir", inside, "run", "--rm", "-v", f"{inside}:/hooks", IMAGE, "true")
    ran = (share / "ran").read_text().split()
    assert sorted(ran) == sorted(stages)
    assert ran.index("startContainer") < ran.index("poststop")


@pytest.mark.slow
def test_create_start_and_restart_keep_the_container(podman):
    podman("create", "--name", "again", IMAGE, "sh", "-c", "echo run >> /count; wc -l < /count")
    for number in (1, 2, 3):
        assert podman("start", "-a", "again").stdout == f"{number}\n"
    podman("rm", "again")


@pytest.mark.slow
def test_many_containers_at_once_leave_nothing(podman):
    before = podman("ps", "-aq").stdout
    names = [f"many{number}" for number in range(10)]
    for name in names:
        podman("run", "-d", "--name", name, IMAGE, "sleep", "1000")
    assert podman("ps", "-q").stdout.count("\n") == 10
    for name in names:
        podman.remove(name)
    assert podman("ps", "-aq").stdout == before
