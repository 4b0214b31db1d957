"""Identity, capabilities, HOME, the executable and hooks: as an ordinary user."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocirt import kernel
from tests.lib.declared import missing
from tests.lib.initrun import Result, Sandbox, user_directory

ALL = (1 << 64) - 1
CHOWN, KILL, NET_RAW, SETPCAP = 0, 5, 13, 8


@pytest.fixture
def root() -> Iterator[Path]:
    with user_directory() as directory:
        directory.chmod(0o777)
        yield directory


@pytest.fixture
def sandbox(root: Path) -> Sandbox:
    return Sandbox(root).enter()


def mask(*capabilities: int) -> int:
    return sum(1 << cap for cap in capabilities)


def capabilities(sandbox: Sandbox) -> dict[str, int]:
    printed = sandbox.output("grep Cap /proc/self/status")
    return {name: int(value, 16) for name, value in re.findall(r"Cap(\w+):\s+([0-9a-f]+)", printed)}


def test_the_five_sets_are_exactly_the_wanted_ones(sandbox: Sandbox) -> None:
    wanted = mask(CHOWN, KILL)
    sandbox.add("bounding_set", mask(CHOWN, KILL, NET_RAW))
    sandbox.add("prctl", kernel.PR_SET_KEEPCAPS, 1, 0, 0, 0)
    sandbox.add("capset", wanted, wanted, wanted)
    sandbox.add("ambient", mask(KILL))
    sets = capabilities(sandbox)
    assert sets["Bnd"] == mask(CHOWN, KILL, NET_RAW)
    assert sets["Inh"] == wanted
    assert sets["Amb"] == mask(KILL)
    # root of the namespace gets inheritable + bounding at exec
    assert sets["Prm"] == sets["Eff"] == mask(CHOWN, KILL, NET_RAW)


def test_no_capability_at_all(sandbox: Sandbox) -> None:
    sandbox.add("bounding_set", 0).add("capset", 0, 0, 0).add("ambient", 0)
    assert set(capabilities(sandbox).values()) == {0}


def test_an_ambient_capability_that_is_not_inheritable_is_an_error(sandbox: Sandbox) -> None:
    sandbox.add("capset", mask(KILL), mask(KILL), 0).add("ambient", mask(KILL))
    sandbox.run().expect(errno.EPERM, "prctl")


def test_the_bounding_set_needs_a_privilege_only_if_it_changes(root: Path) -> None:
    sandbox = Sandbox(root).enter()
    sandbox.add("bounding_set", mask(KILL)).add("capset", 0, 0, 0).add("bounding_set", mask(KILL))
    sandbox.run().expect_success()
    sandbox = Sandbox(root).enter()
    sandbox.add("capset", 0, 0, 0).add("bounding_set", mask(KILL)).run().expect(errno.EPERM, "prctl")


def test_a_filter_is_loaded_and_the_exec_goes_through_it(sandbox: Sandbox) -> None:
    allow = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
    argv = [b"/bin/grep", b"Seccomp:", b"/proc/self/status"]
    sandbox.add("find_executable", argv, None).add("exec_follows").add("seccomp", allow, 0)
    sandbox.add("execve", argv, None)
    read, write = os.pipe()
    sandbox.run(stdio=(0, write, 2)).expect_success()
    os.close(write)
    assert os.read(read, 100) == b"Seccomp:\t2\n"
    os.close(read)


def test_behind_a_filter_only_write_and_exit_are_used_for_a_failure(sandbox: Sandbox) -> None:
    """A filter that kills for all but execve, write and exit_group."""
    numbers = {"x86_64": (59, 1, 231), "aarch64": (221, 64, 94)}[os.uname().machine]
    rows = [struct.pack("<HBBI", 0x20, 0, 0, 0)]  # load the number
    for left, number in enumerate(numbers):
        rows.append(struct.pack("<HBBI", 0x15, len(numbers) - left, 0, number))
    rows.append(struct.pack("<HBBI", 0x06, 0, 0, 0x80000000))
    rows.append(struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000))
    (sandbox.directory / "program").write_text("#!/nonexistent\n")
    (sandbox.directory / "program").chmod(0o755)
    argv = [os.fsencode(sandbox.directory / "program")]
    sandbox.add("find_executable", argv, None).add("exec_follows")
    sandbox.add("seccomp", b"".join(rows), 0).add("execve", argv, None)
    sandbox.run(trace=True).expect(errno.ENOENT)


def test_a_filter_of_a_broken_size_is_refused(sandbox: Sandbox) -> None:
    sandbox.add("seccomp", bytes(9), 0).run().expect(errno.EINVAL)


PASSWD = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\nlast:x:7:7::/last:"


@pytest.mark.parametrize(
    ("passwd", "uid", "home"),
    [
        (PASSWD, 0, "/root"),
        (PASSWD, 1000, "/home/user"),
        (PASSWD, 7, "/last"),
        (PASSWD, 100, "/"),
        (PASSWD, 10, "/"),
        ("", 0, "/"),
        ("broken\n:::\na:b:zero:0::/a:\n" + PASSWD, 0, "/root"),
        ("x:x::0::/empty-uid:\nx:x:-0:0::/minus:\n" + PASSWD, 0, "/root"),
        ("x:x:4294967296:0::/wrapped:\nx:x:18446744073709551616:0::/wrapped:\n" + PASSWD, 0, "/root"),
        ("long:x:0:0::/" + "x" * 5000 + ":\n" + PASSWD, 0, "/root"),
        ("#" * 20_000 + "\n" + PASSWD, 1000, "/home/user"),
        ("nohome:x:5:5:::\n", 5, "/"),
        ("short:x:5:5:comment\n", 5, "/"),
        ("noshell:x:5:5:comment:/here\n", 5, "/here"),
    ],
)
def test_home_comes_from_the_passwd_of_the_container(root: Path, passwd: str, uid: int, home: str) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(passwd)
    assert home_of(root, uid) == home


def home_of(root: Path, uid: int) -> str:
    sandbox = Sandbox(root).enter()
    argv, env = [b"/usr/bin/env"], [b"A=b", b"", b"C=d"]
    sandbox.add("set_home", sandbox.root, env, 1, uid)
    sandbox.add("find_executable", argv, env).add("execve", argv, env)
    read, write = os.pipe()
    sandbox.run(stdio=(0, write, 2)).expect_success()
    os.close(write)
    with open(read, encoding="utf-8") as stream:
        first, home, last = stream.read().splitlines()
    assert (first, home[:5], last) == ("A=b", "HOME=", "C=d")
    return home[5:]


def test_a_passwd_that_is_no_moderate_file_gives_no_home(root: Path) -> None:
    assert home_of(root, 0) == "/"
    etc = root / "etc"
    etc.mkdir()
    passwd = etc / "passwd"
    os.mkfifo(passwd)
    started = time.monotonic()
    assert home_of(root, 0) == "/"
    assert time.monotonic() - started < 2
    passwd.unlink()
    passwd.mkdir()
    assert home_of(root, 0) == "/"
    passwd.rmdir()
    passwd.symlink_to("/dev/zero")
    assert home_of(root, 0) == "/"
    passwd.unlink()
    with passwd.open("w") as file:
        file.write(PASSWD)
        file.truncate(1 << 30)
    assert home_of(root, 0) == "/"
    passwd.unlink()
    passwd.symlink_to("/secret")
    (root / "secret").write_text(PASSWD)
    assert home_of(root, 0) == "/root"


def test_a_place_for_home_that_does_not_exist_is_refused(sandbox: Sandbox) -> None:
    sandbox.add("set_home", sandbox.root, [b"A=b"], 1, 0).run().expect(errno.EINVAL)


def find(root: Path, name: bytes, *env: bytes) -> Result:
    return Sandbox(root).enter().add("find_executable", [name, b"argument"], list(env)).run()


def test_an_executable_is_found_in_path_or_by_its_own(root: Path) -> None:
    find(root, b"true", b"A=b", b"PATH=/nonexistent:/bin").expect_success()
    find(root, b"/bin/true").expect_success()
    find(root, b"nosuch", b"PATH=/bin:/usr/bin").expect(errno.ENOENT)
    find(root, b"true").expect(errno.ENOENT)
    find(root, b"", b"PATH=/bin").expect(errno.ENOENT)
    find(root, b"/nosuch").expect(errno.ENOENT)
    find(root, b"/etc").expect(errno.EACCES)
    find(root, b"/etc/passwd").expect(errno.EACCES)
    find(root, b"etc", b"PATH=/").expect(errno.EACCES)


def test_an_empty_path_does_not_search_the_working_directory(root: Path) -> None:
    sandbox = Sandbox(root).enter().add("chdir", b"/bin")
    sandbox.add("find_executable", [b"true"], [b"PATH="]).run().expect(errno.ENOENT)


def test_what_may_not_be_executed_is_passed_over_in_path(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).mkdir()
    (root / "a/tool").write_text("no")
    path = b"PATH=%s/a:%s/b" % (os.fsencode(root), os.fsencode(root))
    find(root, b"tool", path).expect(errno.EACCES)
    (root / "b/tool").symlink_to("/bin/true")
    find(root, b"tool", path).expect_success()


@pytest.mark.parametrize("path", [b"PATH=:", b"PATH=/nonexistent:", b"PATH=:/nonexistent"])
def test_an_empty_element_of_path_is_the_working_directory(root: Path, path: bytes) -> None:
    sandbox = Sandbox(root).enter().add("chdir", b"/bin")
    sandbox.add("find_executable", [b"true"], [path]).run().expect_success()


def test_the_exec_uses_what_was_found_and_passes_argv_and_env(root: Path) -> None:
    sandbox = Sandbox(root)
    argv, env = [b"sh", b"-c", b'echo "$0:$1:$A"', b"zero", b"one two"], [b"PATH=/bin", b"A=b c"]
    sandbox.add("find_executable", argv, env).add("exec_follows").add("execve", argv, env)
    read, write = os.pipe()
    sandbox.run(stdio=(0, write, 2)).expect_success()
    os.close(write)
    assert os.read(read, 100) == b"zero:one two:b c\n"
    os.close(read)


def test_a_file_that_is_no_program_fails_behind_the_announcement(root: Path) -> None:
    (root / "noformat").write_text("just text")
    (root / "noformat").chmod(0o755)
    argv = [os.fsencode(root / "noformat")]
    sandbox = Sandbox(root).add("find_executable", argv, None).add("exec_follows").add("execve", argv, None)
    sandbox.run().expect(errno.ENOEXEC)


def test_without_find_executable_there_is_nothing_to_execute(root: Path) -> None:
    Sandbox(root).add("execve", [b"/bin/true"], None).run().expect(errno.EINVAL)


def hook(
    sandbox: Sandbox, script: str, *, state: bytes = b"{}", timeout: int = 0, env: object = ()
) -> Result:
    argv = [b"hook", b"-c", script.encode(), b"zero"]
    variables = None if env is None else list(env)  # type: ignore[call-overload]
    return sandbox.add("hook", b"/bin/sh", argv, variables, state, timeout).run()


def test_a_hook_reads_the_state_with_the_pid_that_the_container_sees(root: Path) -> None:
    state = b'{"id":"x","pid":          ,"bundle":"/b"}'
    sandbox = Sandbox(root).enter("CLONE_NEWPID").add("fork")
    hook(sandbox, f"cat > {root}/state; pwd > {root}/cwd").expect_success()
    assert (root / "state").read_bytes() == b"{}"
    assert (root / "cwd").read_text() == "/\n"
    sandbox = Sandbox(root).enter("CLONE_NEWPID").add("fork")
    hook(sandbox, f"cat > {root}/state", state=state).expect_success()
    assert json.loads((root / "state").read_text()) == {"id": "x", "pid": 1, "bundle": "/b"}


def test_a_large_state_reaches_a_hook_and_one_that_does_not_read_is_fine(root: Path) -> None:
    state = b'{"a":"' + b"x" * 500_000 + b'","pid":          }'
    hook(Sandbox(root), f"wc -c > {root}/size", state=state).expect_success()
    assert (root / "size").read_text().strip() == str(len(state))
    hook(Sandbox(root), "exec <&-; exit 0", state=state).expect_success()


def test_a_hook_has_its_own_environment_only(root: Path) -> None:
    hook(Sandbox(root), f"env > {root}/env", env=[b"A=b"]).expect_success()
    assert "A=b" in (root / "env").read_text().split()
    hook(Sandbox(root), f"env > {root}/env", env=None).expect_success()
    assert "A=b" not in (root / "env").read_text().split()


def test_a_hook_inherits_no_fd_of_the_init(root: Path) -> None:
    sandbox = Sandbox(root)
    kept = os.open("/etc", os.O_RDONLY)
    sandbox.keep.append(kept)
    hook(sandbox, f"ls -l /proc/self/fd > {root}/fds").expect_success()
    os.close(kept)
    fds = re.findall(r"(\d+) -> (.*)", (root / "fds").read_text())
    assert [number for number, _ in fds] == ["0", "1", "2", "3"]  # 3 is the listing itself
    assert fds[3][1].endswith("/fd")


@pytest.mark.parametrize(
    ("script", "number", "reason", "complaint"),
    [
        ("exit 3", errno.ECHILD, b"exit status 3", b""),
        ("echo out; echo why >&2; exit 1", errno.ECHILD, b"exit status 1", b"why"),
        ("kill -9 $$", errno.ECHILD, b"killed by signal 9", b""),
    ],
)
def test_a_failing_hook_tells_why_and_how_long_it_took(
    root: Path, script: str, number: int, reason: bytes, complaint: bytes
) -> None:
    result = hook(Sandbox(root), script)
    result.expect(number)
    assert result.error is not None
    said, milliseconds, *rest = result.error.text.split(b"\n")
    assert (said, b"\n".join(rest)) == (reason, complaint)
    assert 0 <= int(milliseconds) < 1000


def test_only_the_end_of_a_long_complaint_is_told(root: Path) -> None:
    result = hook(Sandbox(root), "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i >&2; done; exit 1")
    assert result.error is not None
    assert result.error.text.startswith(b"exit status 1\n")
    assert result.error.text.endswith(b"line 2999\nline 3000")
    assert 500 < len(result.error.text) <= 1024


def test_a_hook_that_is_missing_is_an_exec_error(root: Path) -> None:
    sandbox = Sandbox(root).add("hook", b"/nosuch", [b"nosuch"], [], b"{}", 0)
    sandbox.run().expect(errno.ENOENT, "execve")


def test_a_hook_that_takes_too_long_is_killed(root: Path) -> None:
    started = time.monotonic()
    result = hook(Sandbox(root), "echo still busy >&2; exec sleep 30", timeout=200)
    assert 0.2 <= time.monotonic() - started < 5
    result.expect(errno.ETIMEDOUT)
    assert result.error is not None
    reason, milliseconds, complaint = result.error.text.split(b"\n")
    assert (reason, complaint) == (b"timed out", b"still busy")
    assert 200 <= int(milliseconds) < 5000


def test_children_of_a_hook_that_stay_are_not_waited_for(root: Path) -> None:
    started = time.monotonic()
    hook(Sandbox(root), f"sleep 2 & echo $! > {root}/pid").expect_success()
    assert time.monotonic() - started < 1.5
    os.kill(int((root / "pid").read_text()), 9)


def test_the_plan_goes_on_after_a_hook(root: Path) -> None:
    sandbox = Sandbox(root).add("hook", b"/bin/true", [b"true"], [], b"{}", 1000)
    assert sandbox.output("echo on") == "on\n"


def test_the_session_and_the_umask_are_set(root: Path) -> None:
    sandbox = Sandbox(root).add("setsid").add("umask", 0o27)
    printed = sandbox.output("umask; cut -d' ' -f1,6 /proc/$$/stat")
    mask_seen, ids = printed.splitlines()
    assert mask_seen == "0027"
    assert len(set(ids.split())) == 1


def test_stdio_is_given_to_the_user_but_for_devices_of_all(root: Path) -> None:
    if os.geteuid() != 0:
        missing("needs root: to give a file away")
    before = os.stat("/dev/null").st_uid
    null = os.open("/dev/null", os.O_RDWR)
    with (root / "out").open("wb") as out:
        sandbox = Sandbox(root)
        sandbox.uid = None
        sandbox.add("chown_stdio", 12345, -1).run(stdio=(null, out.fileno(), null)).expect_success()
    os.close(null)
    status = (root / "out").stat()
    assert (status.st_uid, status.st_gid) == (12345, 0)
    assert os.stat("/dev/null").st_uid == before


def test_stdio_that_is_not_ours_to_give_is_left(root: Path) -> None:
    with (root / "out").open("wb") as out:
        sandbox = Sandbox(root).enter().add("chown_stdio", 4242, 4242)
        sandbox.run(stdio=(out.fileno(), out.fileno(), out.fileno())).expect_success()
    assert (root / "out").stat().st_uid != 4242
