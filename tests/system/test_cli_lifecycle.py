"""create, start, state, kill, delete, list, exec, run: what a caller of the command sees."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.lib.bundle import Probe
from tests.lib.declared import missing

pytestmark = pytest.mark.root
# For what stays behind: it would hold the pipe open that its output is read from.
QUIET = {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def sleeper(runtime, bundle):
    """A running container."""
    return runtime.start_bundle(bundle.sh("sleep 600"))


def popen(runtime, *words, **options):
    """A call that is still running, with its stdout as a pipe."""
    arguments = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(runtime.command(*words), **arguments)


def run_and_read_line(runtime, bundle, *options, **keywords):
    """A container in the foreground that has written its first line: (process, id, line)."""
    bundle.write()
    container_id = runtime.new_id()
    process = popen(runtime, "run", "--bundle", bundle.path, *options, container_id, **keywords)
    return process, container_id, process.stdout.readline()


# The life of a container


def test_a_container_goes_from_created_to_running_to_stopped_to_gone(runtime, bundle):
    container_id = runtime.create(bundle.sh("sleep 600"))
    state = runtime.state(container_id)
    assert state["status"] == "created"
    assert Path(f"/proc/{state['pid']}").exists()
    runtime.start(container_id)
    assert runtime.state(container_id) == {**state, "status": "running"}
    runtime("kill", container_id, "KILL", check=True)
    stopped = runtime.wait_for_status(container_id, "stopped")
    assert stopped == {**state, "status": "stopped", "pid": 0}
    runtime("delete", container_id, check=True)
    gone = runtime("state", container_id)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == "container does not exist\n"


def test_state_has_runcs_keys_and_the_annotations(runtime, bundle):
    bundle.spec["annotations"] = {"a.b": "c"}
    container_id = runtime.create(bundle)
    state = runtime.state(container_id)
    assert state["ociVersion"] == bundle.spec["ociVersion"]
    assert state["id"] == container_id
    assert state["bundle"] == str(bundle.path)
    assert state["rootfs"] == str(bundle.rootfs)
    assert state["annotations"] == {"a.b": "c"}
    assert state["owner"] == "root"
    made = datetime.fromisoformat(state["created"][:19] + "+00:00")
    assert abs((datetime.now(UTC) - made).total_seconds()) < 60


def test_a_container_whose_process_died_is_stopped_without_any_command(runtime, bundle):
    container_id = runtime.start_bundle(bundle.sh("exit 0"))
    assert runtime.wait_for_status(container_id, "stopped")["pid"] == 0


def test_list_shows_all_containers_in_runcs_columns(runtime, bundle, sleeper):
    created = runtime.create(bundle.sh("sleep 600"))
    rows = [line.split() for line in runtime("list", check=True).stdout.splitlines()]
    assert rows[0] == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert {row[0]: row[2] for row in rows[1:]} == {sleeper: "running", created: "created"}
    assert all(row[3] == str(bundle.path) and row[5] == "root" for row in rows[1:])
    assert runtime("list", "-q").stdout.split() == sorted([sleeper, created])
    documents = json.loads(runtime("list", "--format", "json").stdout)
    assert [document["id"] for document in documents] == sorted([sleeper, created])
    assert documents[0] == runtime.state(documents[0]["id"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["start"], "cannot start an already running container"),
        (["delete"], "cannot delete container {id} that is not stopped: running"),
    ],
)
def test_a_running_container_refuses_what_it_must(runtime, sleeper, words, text):
    done = runtime(*words, sleeper)
    assert (done.returncode, done.stderr) == (1, text.format(id=sleeper) + "\n")


def test_a_stopped_container_refuses_what_needs_a_process(runtime, sleeper):
    runtime("kill", sleeper, "9", check=True)
    runtime.wait_for_status(sleeper, "stopped")
    killed = runtime("kill", sleeper)
    assert (killed.returncode, killed.stderr) == (1, "container not running\n")
    executed = runtime("exec", sleeper, "true")
    assert (executed.returncode, executed.stderr) == (255, "cannot exec in a stopped container\n")
    started = runtime("start", sleeper)
    assert (started.returncode, started.stderr) == (1, "cannot start a container that has stopped\n")


def test_an_id_can_be_used_once_and_again_after_delete(runtime, bundle, sleeper):
    again = runtime("create", "--bundle", bundle.path, sleeper)
    assert (again.returncode, "already exists" in again.stderr) == (1, True)
    assert runtime.state(sleeper)["status"] == "running"
    runtime("delete", "--force", sleeper, check=True)
    runtime("run", "--detach", "--bundle", bundle.path, sleeper, check=True, **QUIET)
    assert runtime.state(sleeper)["status"] == "running"


def test_delete_force_of_a_running_container_leaves_nothing(runtime, sleeper):
    pid = runtime.state(sleeper)["pid"]
    runtime("delete", "--force", sleeper, check=True)
    stat = Path(f"/proc/{pid}/stat")
    # Whoever adopted it may not have reaped it yet.
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    assert not (runtime.root / sleeper).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{sleeper}"))
    assert runtime("delete", "--force", sleeper).returncode == 0


def test_regex_acts_on_all_that_match(runtime, bundle, sleeper):
    other = runtime.start_bundle(bundle.sh("sleep 600"))
    runtime("kill", "--regex", f"^{sleeper}$", "KILL", check=True)
    runtime.wait_for_status(sleeper, "stopped")
    assert runtime.state(other)["status"] == "running"
    runtime("delete", "--force", "--regex", f"^({sleeper}|{other})$", check=True)
    assert runtime("list", "-q").stdout == ""


@pytest.mark.parametrize("word", ["TERM", "sigterm", "15", None])
def test_kill_sends_the_signal_that_was_named_or_term(runtime, bundle, word):
    bundle.sh("trap 'exit 0' TERM; trap 'echo ready' USR1; touch /tmp/on; while :; do sleep 0.02; done")
    container_id = runtime.start_bundle(bundle)
    deadline = time.monotonic() + 10
    while not (bundle.rootfs / "tmp/on").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    runtime("kill", container_id, *([word] if word else []), check=True)
    runtime.wait_for_status(container_id, "stopped")


def test_kill_with_0_only_asks(runtime, sleeper):
    assert runtime("kill", sleeper, "0").returncode == 0
    assert runtime.state(sleeper)["status"] == "running"


def test_kill_all_reaches_every_process_also_with_a_shared_pid_namespace(runtime, bundle):
    bundle.namespaces("mount", "network", "ipc", "uts").sh("sleep 600 & sleep 600")
    container_id = runtime.start_bundle(bundle)
    group = Path(f"/proc/{runtime.state(container_id)['pid']}/cgroup").read_text()
    path = next(
        line.split(":")[2] for line in group.splitlines() if ":pids:" in line or line.startswith("0::")
    )
    procs = next(p for p in Path("/sys/fs/cgroup").glob(f"*{path}/cgroup.procs") if p.read_text())
    deadline = time.monotonic() + 10
    while len(procs.read_text().split()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    runtime("kill", "--all", container_id, "9", check=True)
    deadline = time.monotonic() + 10
    while procs.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert procs.read_text() == ""


# pid files


def test_the_pid_file_holds_the_pid_in_plain_decimal(runtime, bundle, tmp_path):
    container_id = runtime.create(bundle, "--pid-file", tmp_path / "pid")
    assert (tmp_path / "pid").read_bytes() == str(runtime.state(container_id)["pid"]).encode()


def test_a_relative_pid_file_is_relative_to_the_callers_directory(runtime, bundle, tmp_path, sleeper):
    runtime("exec", "-d", "--pid-file", "pid", sleeper, "sleep", "600", check=True, cwd=tmp_path, **QUIET)
    pid = (tmp_path / "pid").read_text()
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00"
    assert not (bundle.path / "pid").exists()


def test_a_pid_file_that_cannot_be_written_is_an_error_that_leaves_nothing(runtime, bundle, tmp_path):
    bundle.write()
    container_id = runtime.new_id()
    done = runtime("create", "--bundle", bundle.path, "--pid-file", tmp_path / "no/pid", container_id)
    assert done.returncode == 1
    assert str(tmp_path / "no") in done.stderr
    assert runtime("list", "-q").stdout == ""


# Exit statuses and streams of run and exec


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255)])
def test_run_and_exec_pass_the_status_on(runtime, bundle, sleeper, script, status):
    assert runtime.run(bundle.sh(script)).returncode == status
    assert runtime("exec", sleeper, "sh", "-c", script).returncode == status


def test_death_by_a_signal_is_128_and_its_number(runtime, bundle, sleeper):
    assert runtime("exec", sleeper, "sh", "-c", "kill -9 $$").returncode == 137
    process, container_id, _ = run_and_read_line(runtime, bundle.sh("echo on; sleep 600"))
    runtime("kill", container_id, "KILL", check=True)
    assert process.wait(timeout=10) == 137


def test_run_deletes_the_container_in_the_end(runtime, bundle):
    runtime.run(bundle.sh("exit 1"))
    assert runtime("list", "-q").stdout == ""
    assert list(runtime.root.iterdir()) == []


def test_run_with_keep_leaves_it_stopped(runtime, bundle):
    bundle.sh("exit 4").write()
    container_id = runtime.new_id()
    assert runtime("run", "--keep", "--bundle", bundle.path, container_id).returncode == 4
    assert runtime.state(container_id)["status"] == "stopped"
    runtime("delete", container_id, check=True)


def test_stdio_goes_straight_through(runtime, bundle, sleeper):
    done = runtime.run(bundle.sh("cat; echo error >&2"), input="one\ntwo")
    assert (done.stdout, done.stderr, done.returncode) == ("one\ntwo", "error\n", 0)
    done = runtime("exec", sleeper, "sh", "-c", "cat; echo error >&2", input="three")
    assert (done.stdout, done.stderr, done.returncode) == ("three", "error\n", 0)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/nosuch", 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        ("/etc", 'exec: "/etc": '),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_command_that_cannot_be_run_is_told_in_the_words_that_engines_parse(
    runtime, bundle, sleeper, command, text
):
    created = runtime.run(bundle.args(command))
    assert created.returncode == 1
    assert created.stderr.startswith(text)
    assert created.stderr.count("\n") == 1
    executed = runtime("exec", sleeper, command)
    assert executed.returncode == 255
    assert executed.stderr.startswith(text)
    assert runtime("list", "-q").stdout.split() == [sleeper]


def test_a_directory_as_command_is_permission_denied(runtime, bundle):
    assert "permission denied" in runtime.run(bundle.args("/etc")).stderr.lower()


# Signals of the foreground


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "QUIT"])
def test_run_passes_signals_on_to_the_container(runtime, bundle, name):
    bundle.sh(f"trap 'echo got {name}; exit 9' {name}; echo on; while :; do sleep 0.02; done")
    process, _, _ = run_and_read_line(runtime, bundle)
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.communicate(timeout=10)[0] == f"got {name}\n"
    assert process.returncode == 9


def test_exec_passes_signals_on_to_its_process(runtime, sleeper):
    script = "trap 'echo got TERM; exit 8' TERM; echo on; while :; do sleep 0.02; done"
    process = popen(runtime, "exec", sleeper, "sh", "-c", script)
    assert process.stdout.readline() == "on\n"
    process.terminate()
    assert process.communicate(timeout=10)[0] == "got TERM\n"
    assert process.returncode == 8
    assert runtime.state(sleeper)["status"] == "running"


def test_a_signal_that_the_caller_ignores_is_not_passed_on(runtime, bundle):
    bundle.sh("trap 'echo hup' HUP; trap 'exit 7' TERM; echo on; while :; do sleep 0.02; done")
    process, _, _ = run_and_read_line(
        runtime, bundle, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == ""
    assert process.returncode == 7


def test_a_signal_while_the_container_is_made_undoes_everything(runtime, bundle):
    bundle.spec["hooks"] = {"prestart": [{"path": "/bin/sleep", "args": ["sleep", "2"]}]}
    bundle.args("/bin/true").write()
    container_id = runtime.new_id()
    process = popen(runtime, "run", "--bundle", bundle.path, container_id, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 10
    while not list(Path("/sys/fs/cgroup").glob(f"*/{container_id}")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.terminate()
    assert process.communicate(timeout=10)[1] == "interrupted by signal 15\n"
    assert process.returncode == 143
    assert list(runtime.root.iterdir()) == []
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{container_id}"))


def test_run_reaps_the_orphans_of_a_shared_pid_namespace(runtime, bundle):
    bundle.namespaces("mount", "network", "ipc", "uts")
    bundle.sh("(exec sh -c 'echo $$; while [ -e /tmp/stay ]; do sleep 0.02; done' &) ; read x; exit 3")
    (bundle.rootfs / "tmp/stay").touch()
    process, _, orphan = run_and_read_line(runtime, bundle, stdin=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 10
    while orphan.strip() not in children.read_text().split():  # it is ours once its parent has ended
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (bundle.rootfs / "tmp/stay").unlink()
    while orphan.strip() in children.read_text().split():
        assert time.monotonic() < deadline, "a zombie"
        time.sleep(0.01)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=10) == 3


# What is handed to the container


def test_preserved_fds_are_passed_on_and_no_others(runtime, bundle):
    bundle.sh("cat <&3; ls /proc/self/fd | wc -l")
    read, write = os.pipe()
    spare, _ = os.pipe()
    os.dup2(read, 3)
    os.dup2(spare, 4)
    os.write(write, b"through fd 3\n")
    os.close(write)
    done = runtime.run(bundle, "--preserve-fds", "1", pass_fds=[3, 4])
    # 0, 1, 2, 3 and the directory that ls reads
    assert done.stdout == "through fd 3\n5\n"


def test_an_fd_that_the_caller_has_not_passed_is_an_error(runtime, bundle):
    done = runtime.run(bundle, "--preserve-fds", "1")
    assert done.returncode == 1
    assert done.stderr.startswith("--preserve-fds (fd 3): ")


def test_listening_sockets_of_systemd_are_passed_on(runtime, bundle):
    bundle.sh("echo $LISTEN_FDS $LISTEN_PID; readlink /proc/self/fd/3")
    listener = socket.socket(socket.AF_UNIX)
    os.dup2(listener.fileno(), 3)
    environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    done = runtime.run(bundle, pass_fds=[3], env=environment)
    assert done.stdout.startswith("1 1\n"), done.stderr
    other = {**environment, "LISTEN_PID": "999999999"}
    assert runtime.run(bundle.sh("echo ${LISTEN_FDS-none}"), env=other).stdout == "none\n"


def test_pidfd_socket_gets_a_pidfd_of_the_process(runtime, bundle, tmp_path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.listen(1)
    container_id = runtime.create(bundle.sh("sleep 600"), "--pidfd-socket", tmp_path / "socket")
    connection, _ = server.accept()
    _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    facts = Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
    assert f"Pid:\t{runtime.state(container_id)['pid']}\n" in facts
    os.close(fds[0])


@pytest.mark.parametrize("option", ["--pidfd-socket", "--console-socket"])
def test_a_socket_that_nobody_listens_on_names_the_option(runtime, bundle, tmp_path, option):
    bundle.process["terminal"] = option == "--console-socket"
    bundle.write()
    done = runtime("create", "--bundle", bundle.path, option, tmp_path / "nosuch", runtime.new_id())
    assert done.returncode == 1
    assert done.stderr == f"{option} ({tmp_path}/nosuch): connect: No such file or directory\n"
    assert runtime("list", "-q").stdout == ""


# NOTIFY_SOCKET


@pytest.fixture
def manager(tmp_path):
    """A service manager's notify socket."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "manager"))
    server.settimeout(10)
    yield server
    server.close()


def send_from_inside(runtime, container_id, message):
    """What a program in the container does, through the socket that it sees."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    pid = runtime.state(container_id)["pid"]
    deadline = time.monotonic() + 10
    while True:
        try:
            sender.sendto(message, f"/proc/{pid}/root/run/notify/notify.sock")
            break
        except FileNotFoundError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    sender.close()


def test_readiness_is_passed_on_with_the_pid_on_the_host(runtime, bundle, manager):
    bundle.sh("echo $NOTIFY_SOCKET; sleep 600")
    environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname()}
    process, container_id, line = run_and_read_line(runtime, bundle, env=environment)
    assert line == "/run/notify/notify.sock\n"
    send_from_inside(runtime, container_id, b"MAINPID=1\nREADY=1\nSTATUS=up\nFDSTORE=1")
    pid = runtime.state(container_id)["pid"]
    assert manager.recv(100) == b"READY=1\nSTATUS=up\nMAINPID=%d" % pid
    runtime("kill", container_id, "KILL", check=True)
    assert process.wait(timeout=10) == 137


def test_the_container_can_put_nothing_into_the_notify_directory(runtime, bundle, manager):
    """It is the state directory's: full, or nested without end, it would keep delete from its work."""
    environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname()}
    bundle.sh("touch /run/notify/x; mkdir /run/notify/y; echo; sleep 600")
    process, container_id, _ = run_and_read_line(runtime, bundle, env=environment)
    inside = runtime.root / container_id / "notify"
    assert [entry.name for entry in inside.iterdir()] == ["notify.sock"]
    send_from_inside(runtime, container_id, b"READY=1")
    assert manager.recv(100).startswith(b"READY=1")
    runtime("kill", container_id, "KILL", check=True)
    process.wait(timeout=10)


def test_start_returns_when_the_container_is_ready(runtime, bundle, manager):
    environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname()}
    bundle.sh("sleep 600").write()
    container_id = runtime.new_id()
    call = runtime.command("create", "--bundle", bundle.path, container_id)
    subprocess.run(call, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    process = popen(runtime, "start", container_id, env=environment)
    runtime.wait_for_status(container_id, "running")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    send_from_inside(runtime, container_id, b"READY=1")
    assert process.wait(timeout=10) == 0
    assert manager.recv(100).startswith(b"READY=1\nMAINPID=")


def test_start_with_a_notify_socket_returns_also_when_the_container_ends(runtime, bundle, manager):
    environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname()}
    bundle.sh("exit 0").write()
    container_id = runtime.new_id()
    call = runtime.command("create", "--bundle", bundle.path, container_id)
    subprocess.run(call, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    assert runtime("start", container_id, env=environment).returncode == 0


# exec's options


def test_exec_changes_what_its_options_name(runtime, sleeper):
    words = ["--user", "1000:5", "-g", "7", "-g", "8", "--cwd", "/tmp", "-e", "A=1", "--cap", "CAP_NET_RAW"]
    probe = Probe(runtime("exec", *words, sleeper, "/bin/probe", check=True).stdout)
    assert probe.status("Uid").split() == ["1000"] * 4
    assert probe.status("Gid").split() == ["5"] * 4
    assert probe.status("Groups").split() == ["7", "8"]
    assert probe["cwd"] == "/tmp"
    assert probe.caps("CapBnd") & 1 << 13
    assert probe.caps("CapInh") == 0
    assert "A=1" in probe.all("env")


def test_exec_takes_a_process_document(runtime, sleeper, tmp_path):
    document = {
        "args": ["sh", "-c", "id -u; exit 6"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 9, "gid": 9},
    }
    (tmp_path / "p.json").write_text(json.dumps(document))
    done = runtime("exec", "--process", tmp_path / "p.json", sleeper)
    assert (done.stdout, done.returncode) == ("9\n", 6)


def test_options_behind_the_id_are_the_commands(runtime, sleeper):
    assert runtime("exec", sleeper, "echo", "-e", "--help").stdout == "--help\n"


def test_exec_detach_returns_while_the_process_runs(runtime, sleeper, tmp_path):
    begun = time.monotonic()
    runtime("exec", "--detach", "--pid-file", tmp_path / "pid", sleeper, "sleep", "600", check=True, **QUIET)
    assert time.monotonic() - begun < 10
    assert Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_exec_joins_a_group_below_the_containers(runtime, sleeper):
    groups = [Path(path) / "below" for path in Path("/sys/fs/cgroup").glob(f"pids/{sleeper}")]
    if not groups:
        missing("no pids hierarchy of cgroup v1")
    groups[0].mkdir()
    done = runtime("exec", "--cgroup", "pids:below", sleeper, "cat", "/proc/self/cgroup", check=True)
    assert f":pids:/{sleeper}/below\n" in done.stdout
    for word, text in (
        ("nosuch", "--cgroup: "),
        ("../..", "--cgroup: '../..' leads out of the container's cgroup"),
        ("nosuch:x", "--cgroup: the container has no cgroup of the controller 'nosuch'"),
    ):
        refused = runtime("exec", "--cgroup", word, sleeper, "true")
        assert refused.returncode == 255
        assert refused.stderr.startswith(text)


# spec, features, plan, verify


def test_spec_writes_a_config_once(runtime, tmp_path):
    runtime("spec", "--bundle", tmp_path, check=True)
    text = (tmp_path / "config.json").read_text()
    spec = json.loads(text)
    assert spec["process"]["args"] == ["sh"]
    assert spec["process"]["terminal"] is True
    again = runtime("spec", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (1, "file config.json exists: remove it first\n")
    assert (tmp_path / "config.json").read_text() == text


def test_spec_rootless_maps_the_caller(runtime, tmp_path):
    runtime("spec", "--rootless", cwd=tmp_path, check=True)
    linux = json.loads((tmp_path / "config.json").read_text())["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    assert "user" in [entry["type"] for entry in linux["namespaces"]]


def test_features_fits_its_schema(runtime):
    import jsonschema
    from referencing import Registry, Resource

    document = json.loads(runtime("features", check=True).stdout)
    schemas = Path(__file__).parents[2] / "schemas"
    read = {path.name: json.loads(path.read_text()) for path in schemas.glob("*.json")}
    registry = Registry().with_resources(
        [(name, Resource.from_contents(text)) for name, text in read.items()]
    )
    jsonschema.Draft202012Validator(read["features.schema.json"], registry=registry).validate(document)
    assert document["ociVersionMax"] == "1.3.0"
    assert "CAP_SYS_ADMIN" in document["linux"]["capabilities"]
    assert "rbind" in document["mountOptions"]
    assert document["linux"]["intelRdt"] == {"enabled": True, "schemata": True, "monitoring": True}
    assert set(document["linux"]["cgroup"].values()) == {True}
    wanted = ["org.systemd.property.", "run.oci.systemd.subgroup"]
    assert document["potentiallyUnsafeConfigAnnotations"] == wanted


def test_plan_needs_no_root_and_changes_nothing(runtime, bundle, tmp_path_factory):
    bundle.write()
    own = (tmp_path_factory.getbasetemp(), "/tmp/pytest-of-root")
    for directory in (bundle.path, *bundle.path.parents):
        if directory.stat().st_uid == 0 and any(directory.is_relative_to(place) for place in own):
            directory.chmod(0o755)
    (bundle.path / "config.json").chmod(0o644)
    call = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", str(runtime.path)]
    done = subprocess.run(
        [*call, "plan", "--bundle", bundle.path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert 'execve(["/bin/probe"]' in done.stdout
    document = json.loads(runtime("plan", "--json", "--bundle", bundle.path, check=True).stdout)
    assert document["steps"][-1]["field"] == "process.args"
    summary = runtime("plan", "--summary", "--bundle", bundle.path, check=True).stdout
    assert len(summary.splitlines()) < 40
    assert not runtime.root.exists()


def test_plan_of_a_path_shows_a_placeholder_where_the_id_goes(runtime, bundle):
    bundle.linux["intelRdt"] = {"enableMonitoring": True}
    bundle.write()
    shown = runtime("plan", bundle.path, check=True).stdout
    assert shown == runtime("plan", "--bundle", bundle.path, check=True).stdout
    assert shown == runtime("plan", "ID", "--bundle", bundle.path, check=True).stdout
    assert "class /sys/fs/resctrl/ID\n" in shown
    assert "open /sys/fs/resctrl/ID/mon_groups/ID/tasks\n" in shown
    assert f"/sys/fs/resctrl/{bundle.path}" not in shown
    groups = [line for line in shown.splitlines() if "open /sys/fs/cgroup/" in line]
    assert groups
    assert all("/ID/" in line or line.endswith("/ID") for line in groups), groups
    named = runtime("plan", "--bundle", bundle.path, "box", check=True).stdout
    assert "open /sys/fs/resctrl/box/mon_groups/box/tasks\n" in named
    both = runtime("plan", "--bundle", bundle.path, f"{bundle.path}/")
    assert both.returncode == 1
    assert f'"plan" takes one bundle: {bundle.path} or {bundle.path}/' in both.stderr
    assert "invalid container ID format" in runtime("plan", "--bundle", bundle.path, "a b").stderr


def test_verify_finds_a_fresh_container_as_asked(runtime, sleeper):
    done = runtime("verify", sleeper)
    assert done.returncode == 0, done.stdout
    assert "DIFFERS" not in done.stdout
    findings = json.loads(runtime("verify", "--json", sleeper).stdout)
    assert {finding["ok"] for finding in findings} == {True}


def test_verify_knows_what_is_covered_and_where_links_lead(runtime, bundle):
    (bundle.rootfs / "link").symlink_to("/home")
    (bundle.rootfs / "elsewhere").symlink_to("/tmp/there")
    volume = bundle.path / "volume"
    volume.mkdir()
    bundle.linux["readonlyPaths"] += ["/", "/link", "/nosuch"]
    bundle.namespaces("mount", "uts", "ipc", "network")
    bundle.spec["mounts"] += [
        {"destination": "/proc/", "type": "bind", "source": "/proc", "options": ["rbind", "nosuid"]},
        {"destination": "//root//x/", "type": "bind", "source": str(volume), "options": ["bind", "ro"]},
        {"destination": "/elsewhere", "type": "tmpfs", "source": "tmpfs", "options": ["noexec"]},
        {"destination": "usr/bin", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/usr", "type": "tmpfs", "source": "tmpfs", "options": ["nodev"]},
    ]
    container_id = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    done = runtime("verify", "--json", container_id)
    rows = {row["field"]: row for row in json.loads(done.stdout)}
    assert [field for field, row in rows.items() if not row["ok"]] == []
    assert not any(field.startswith(("mounts[0]", "mounts[10]")) for field in rows)
    assert rows["linux.readonlyPaths[6] /link"]["inForce"] == "read-only"
    assert rows["root.readonly"]["inForce"] == "true"


def test_verify_tells_what_differs_and_fails(runtime, bundle, sleeper, tmp_path):
    pid = runtime.state(sleeper)["pid"]
    bundle.spec["hostname"] = "another"
    (tmp_path / "other.json").write_text(json.dumps(bundle.spec))
    done = runtime("verify", "--pid", pid, "--config", tmp_path / "other.json")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("hostname"))
    assert line.split() == ["hostname", "another", "ocirt", "DIFFERS"]


def test_trace_has_the_steps_of_both_sides(runtime, bundle, tmp_path):
    runtime.run(bundle.sh("exit 0"), "--trace", tmp_path / "trace.json", check=True)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["cat"] for event in events if event["ph"] == "X"} == {"parent", "ocirt-init"}


# Roots, logs


def test_the_state_directory_is_for_its_owner_alone(runtime, sleeper):
    assert runtime.root.stat().st_mode & 0o777 == 0o700
    assert (runtime.root / sleeper).stat().st_mode & 0o777 == 0o700


def test_a_failed_create_is_one_json_record(runtime, bundle, tmp_path):
    bundle.args("nosuch").write()
    log = tmp_path / "log.json"
    call = ["--log", log, "--log-format", "json", "create", "--bundle", bundle.path, runtime.new_id()]
    assert runtime(*call).returncode == 1
    record = json.loads(log.read_text())
    assert record["level"] == "error"
    assert record["msg"] == 'exec: "nosuch": executable file not found in $PATH'
