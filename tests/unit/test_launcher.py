"""The native command, in every way that the build can make it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.lib.declared import missing

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = {
    "static, snapshot": ("-Dlauncher=static", "-Dsnapshot=enabled"),
    "static, core init": ("-Dlauncher=static", "-Dcore_init=enabled", "-Dsnapshot=disabled"),
    "static, public API": ("-Dlauncher=static", "-Dcore_init=disabled"),
    "static, no archive": ("-Dlauncher=static", "-Darchive=false"),
    "shared, core init": ("-Dlauncher=shared", "-Dcore_init=enabled"),
    "shared, public API": ("-Dlauncher=shared", "-Dcore_init=disabled"),
    "python3": ("-Dlauncher=exec",),
}

AGENT = """
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
static pthread_key_t keys[3];
__attribute__((constructor)) static void begin(void)
{
	for (int i = 0; i < 3; i++) {
		pthread_key_create(keys + i, NULL);
		pthread_setspecific(keys[i], keys);
	}
}
ssize_t write(int fd, const void *data, size_t size)
{
	for (int i = 0; i < 3; i++)
		if (pthread_getspecific(keys[i]) != keys)
			_exit(77);
	return syscall(SYS_write, fd, data, size);
}
"""


def tool(*words: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", params=VARIANTS)
def launcher(request: pytest.FixtureRequest) -> Path:
    """Built in build/, where the next run finds it, beside the libraries of this venv."""
    place = ROOT / "build/launchers" / request.param.replace(", ", "-").replace(" ", "-")
    if not (place / "build.ninja").exists():
        shutil.rmtree(place, ignore_errors=True)
        tool("meson", "setup", *VARIANTS[request.param], str(place))
    tool("ninja", "-C", str(place), "csrc/launcher/ocirt")
    prefix = place / "prefix"
    (prefix / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(place / "csrc/launcher/ocirt", prefix / "bin/ocirt")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", prefix)
    if not (prefix / "lib").is_symlink():
        (prefix / "lib").symlink_to(Path(sys.prefix) / "lib")
    return prefix / "bin/ocirt"


def run(*words: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    arguments = {"capture_output": True, "timeout": 30, "env": {}, **options}
    return subprocess.run(words, **arguments)  # type: ignore[call-overload, no-any-return]


def test_version_needs_no_environment(launcher: Path) -> None:
    done = run(launcher, "--version", cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"ocirt version 0.1.0\n")
    assert done.stderr == b""


def test_an_error_is_one_line_and_a_status(launcher: Path, tmp_path: Path) -> None:
    done = run(launcher, "--root", tmp_path, "state", "nosuch")
    assert (done.returncode, done.stderr) == (1, b"container does not exist\n")


def test_modules_off_the_hot_path_are_found(launcher: Path, tmp_path: Path) -> None:
    """The wording of an invalid config.json comes from jsonschema, with half the standard library."""
    (tmp_path / "config.json").write_text('{"ociVersion": "1.2.0", "process": {"cwd": 7}}')
    (tmp_path / "rootfs").mkdir()
    done = run(launcher, "--root", tmp_path / "state", "create", "--bundle", tmp_path, "x")
    assert done.returncode == 1
    assert b"process" in done.stderr
    assert b"cwd" in done.stderr
    assert b"jsonschema" not in done.stderr


def test_code_comes_neither_from_the_environment_nor_from_the_cwd(launcher: Path, tmp_path: Path) -> None:
    for name in ("json", "re", "encodings", "jsonschema", "ocirt", "errno", "_json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f"open({str(tmp_path / 'loaded')!r}, 'w')\nraise SystemExit(77)"
        )
    (tmp_path / "startup.py").write_text("raise SystemExit(77)")
    (tmp_path / "config.json").write_text('{"ociVersion": 1}')
    environment = {
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "startup.py"),
        "PYTHONPLATLIBDIR": str(tmp_path),
        "PYTHONINSPECT": "1",
        "HOME": str(tmp_path),
        "PATH": str(tmp_path),
    }
    # Python that does not know its own name looks for it along PATH, and for its library beside it.
    for name in ("python3", "python3.11"):
        (tmp_path / name).touch(0o755)
        (tmp_path / f"{name}._pth").write_text(f"{tmp_path}\n")
    (tmp_path / "pyvenv.cfg").write_text(f"home = {tmp_path}\n")
    done = run(launcher, "create", "--bundle", tmp_path, "x", cwd=tmp_path, env=environment)
    assert done.returncode == 1, done.stderr
    assert b"ociVersion" in done.stderr
    assert not (tmp_path / "loaded").exists()


def test_libraries_do_not_come_from_ld_library_path(launcher: Path, tmp_path: Path) -> None:
    """docker's shim hands one down whose empty element means the cwd."""
    source = tmp_path / "evil.c"
    source.write_text(
        "#include <unistd.h>\n__attribute__((constructor)) static void evil(void) { _exit(77); }\n"
    )
    needed = (
        "libm.so.6",
        "libc.so.6",
        "libpthread.so.0",
        "libseccomp.so.2",
        "libpython3.11.so.1.0",
        "libffi.so.8",
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / needed[0], source], check=True)
    for name in needed[1:]:
        shutil.copy(tmp_path / needed[0], tmp_path / name)
    done = run(launcher, "--version", cwd=tmp_path, env={"LD_LIBRARY_PATH": f"{tmp_path}:"})
    assert done.returncode == 0, done.stderr
    assert b"libseccomp" in done.stdout


def test_closed_standard_fds_are_filled(launcher: Path, tmp_path: Path) -> None:
    script = '"$0" --root "$1" state nosuch <&- >&- 2>&-; echo $?'
    done = run("/bin/sh", "-c", script, launcher, tmp_path)
    assert done.stdout == b"1\n"


def test_arguments_that_are_not_utf8_arrive(launcher: Path, tmp_path: Path) -> None:
    done = run(launcher, "--root", tmp_path, "state", b"a\xffb")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


def test_a_closed_pipe_is_no_crash(launcher: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(launcher, "--version", stdout=write, stderr=subprocess.PIPE, capture_output=False)
    os.close(write)
    assert done.returncode >= 0, "killed by SIGPIPE"
    assert b"Traceback" not in done.stderr


def test_the_environment_is_the_callers(launcher: Path, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    assert run(launcher, "spec", "--bundle", tmp_path).returncode == 0
    listen = {"LISTEN_FDS": "900", "LISTEN_PID": "1"}
    done = run(launcher, "plan", "--bundle", tmp_path, env=listen)
    assert (done.returncode, done.stderr[:14]) == (1, b"--preserve-fds")
    done = run(launcher, "plan", "--bundle", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def test_libraries_loaded_before_may_have_keys_of_their_own(launcher: Path, tmp_path: Path) -> None:
    """An allocator or an agent of /etc/ld.so.preload makes thread-specific data before main begins."""
    source = tmp_path / "agent.c"
    source.write_text(AGENT)
    agent = tmp_path / "agent.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", agent, source], check=True)
    done = run(launcher, "--version", env={"LD_PRELOAD": str(agent)})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"ocirt version 0.1.0\n")


def run_inside(
    launcher: Path, place: Path, code: str, through: tuple[object, ...] = (), verb: str = "create"
) -> subprocess.CompletedProcess[bytes]:
    """Run code in the command's interpreter, of an installation in place whose start is completed.

    through: the words of a program that executes the rest of its words.
    """
    (place / "bin").mkdir()
    shutil.copy(launcher, place / "bin/ocirt")
    site = place / f"lib/python{sysconfig.get_python_version()}/site-packages"
    (site / "jsonschema").mkdir(parents=True)
    for path in (ROOT / "ocirt", *Path(sysconfig.get_path("platlib")).glob("_cffi_backend*")):
        (site / path.name).symlink_to(path)
    (site / "jsonschema/__init__.py").write_text(f"import os, sys\n{code}\nsys.stdout.flush()\nos._exit(7)\n")
    (place / "config.json").write_text('{"ociVersion": 1}')
    environment = {"TZ": "JST-9", "WORD": "word"}
    words = [*through, place / "bin/ocirt", verb, "-b", place, *(["x"] if verb == "create" else [])]
    return run(*words, env=environment)


def test_what_belongs_to_the_process_is_its_own(launcher: Path, tmp_path: Path) -> None:
    code = """
import time, _thread
print([*sys._current_frames()] == [_thread.get_ident()], time.tzname[0], os.environ["WORD"])
"""
    done = run_inside(launcher, tmp_path, code)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"True JST word\n", b"")


HUGE_PAGES = """
data = False  # the lines of /proc/self/smaps are about the executable's data
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        data = "rw-p" in line and int(line.partition("-")[0], 16) < sys.maxsize >> 16
    elif data and line.startswith("AnonHugePages"):
        print(line.split()[1])
"""
WITHOUT = {
    "none is free": ("/proc/buddyinfo", "Node 0, zone   Normal 9 9 9 9 9 9 9 9 9 1 0 \n"),
    "they are switched off": ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"),
    "it may not have any": None,
    "the rest of a line is no number": ("/proc/buddyinfo", "Node 0, zone\nNode 1, zone x y zone"),
}
NO_HUGE_PAGES = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def huge_kib(
    launcher: Path, place: Path, file: str = "", text: str = "", *, denied: bool = False, verb: str = "create"
) -> int:
    """How much of the executable's data is in huge pages of the kernel where file says text."""
    through: tuple[object, ...] = ("/usr/bin/python3", "-c", NO_HUGE_PAGES) if denied else ()
    if file:
        if os.geteuid():
            missing("root, for a mount namespace")
        (place / "text").write_text(text)
        command = f'mount --bind {place}/text {file} && exec "$@"'
        through = ("/usr/bin/unshare", "-m", "/bin/sh", "-c", command, "sh")
    done = run_inside(launcher, place, HUGE_PAGES, through, verb)
    assert (done.returncode, done.stderr) == (7, b"")
    return sum(map(int, done.stdout.split()))


@pytest.mark.parametrize("launcher", ["static, snapshot"], indirect=True)
def test_the_snapshot_is_in_two_huge_pages_where_the_kernel_has_many(launcher: Path, tmp_path: Path) -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        missing("transparent huge pages")
    many = "Node 0, zone   Normal 0 0 0 0 0 0 0 0 0 10 11 \n"
    assert huge_kib(launcher, tmp_path, "/proc/buddyinfo", many) == 4096


@pytest.mark.parametrize("launcher", ["static, snapshot"], indirect=True)
def test_what_writes_to_little_of_the_snapshot_copies_none_of_it_first(
    launcher: Path, tmp_path: Path
) -> None:
    assert huge_kib(launcher, tmp_path, verb="plan") == 0


@pytest.mark.parametrize("launcher", ["static, snapshot"], indirect=True)
@pytest.mark.parametrize("reason", WITHOUT)
def test_without_huge_pages_the_snapshot_is_in_small_ones(
    launcher: Path, tmp_path: Path, reason: str
) -> None:
    case = WITHOUT[reason]
    assert (huge_kib(launcher, tmp_path, *case) if case else huge_kib(launcher, tmp_path, denied=True)) == 0


def test_what_a_kernel_call_is_given_is_checked(launcher: Path, tmp_path: Path) -> None:
    """By cffi, or by the wrappers that builtin.py has written."""
    code = """
from ocirt._shim import ffi, lib
number = ffi.new("uint64_t *")
for call, *words in [
    (lib.oc_mount_id, -1, b"x", 0, number),
    (lib.oc_mount_id, -1, b"x", 0),
    (lib.oc_mount_id, -1, b"x", 0, number, 0),
    (lib.oc_mount_id, 2**31, b"x", 0, number),
    (lib.oc_mount_id, -2**31 - 1, b"x", 0, number),
    (lib.oc_mount_id, 2**64, b"x", 0, number),
    (lib.oc_mount_id, 1.5, b"x", 0, number),
    (lib.oc_mount_id, -1, "x", 0, number),
    (lib.oc_mount_id, -1, b"x", 0, 8),
    (lib.oc_memfd_create, b"x", -1),
    (lib.oc_memfd_create, b"x", 2**32),
    (lib.oc_send_fd, -1, -1, b"x", -1),
    (lib.oc_send_fd, -1, -1, b"x", 2**64),
]:
    counts = [sys.getrefcount(word) for word in words]
    try:
        print(call(*words))
    except Exception as error:
        print(type(error).__name__)
        del error
    assert counts == [sys.getrefcount(word) for word in words], words
"""
    done = run_inside(launcher, tmp_path, code)
    assert done.stderr == b""
    assert done.stdout.decode().split() == [
        "-9",
        *["TypeError"] * 2,
        *["OverflowError"] * 3,
        *["TypeError"] * 3,
        *["OverflowError"] * 4,
    ]


def test_the_command_takes_no_snapshot_of_itself(launcher: Path, tmp_path: Path) -> None:
    done = run(launcher, str(tmp_path / "snapshot"))
    assert done.returncode == 3
    assert b"No help topic" in done.stderr
    assert not (tmp_path / "snapshot").exists()


def test_it_may_be_stripped(launcher: Path, tmp_path: Path) -> None:
    stripped = launcher.with_name("stripped")
    subprocess.run(["strip", "-o", stripped, launcher], check=True)
    done = run(stripped, "--version")
    assert done.stdout.startswith(b"ocirt version 0.1.0\n"), done.stderr
    done = run(stripped, "--root", tmp_path, "state", "nosuch")
    assert (done.returncode, done.stderr) == (1, b"container does not exist\n")


def test_a_linker_that_would_lose_data_is_refused(tmp_path: Path) -> None:
    """gold puts stdin, stderr and environ of the C library behind the memory, where the snapshot ends."""
    place = ROOT / "build/launchers/static-snapshot"
    target = "csrc/launcher/ocirt-unstarted"
    words = ["ninja", "-C", place, "-t", "commands", target]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    listed = run(*words, env={"PATH": path}).stdout.decode().splitlines()
    (link,) = [line for line in listed if f"-o {target} " in line]
    link = link.replace(f"-o {target} ", f"-fuse-ld=gold -o {tmp_path}/linked ")
    subprocess.run(link, shell=True, cwd=place, check=True, timeout=60)
    done = run(tmp_path / "linked", tmp_path / "snapshot")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"ocirt: the linker put data behind the snapshot's memory: use GNU ld")
    assert not (tmp_path / "snapshot").exists()


def test_without_its_package_it_says_so(launcher: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy(launcher, tmp_path / "bin/ocirt")
    done = run(tmp_path / "bin/ocirt", "--version")
    assert done.returncode == 1
    assert b"Python package" in done.stderr


def test_the_variants_are_those_of_this_machine() -> None:
    """A static libpython is what Debian's python3-dev brings; without, the static ones are untested."""
    assert list(Path(sysconfig.get_config_var("LIBPL")).glob("libpython3*.a"))
