"""Documents and options that are wrong in ways nobody thought of: a typed error of one line, never a
traceback, never a half-made container. The seeds are fixed; the long run goes further from there.
"""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocirt import mount_options, process
from ocirt.build import build_create
from ocirt.errors import OcirtError
from ocirt.options import CreateOptions
from tests.lib.bundle import Bundle
from tests.lib.runtime import Runtime

pytestmark = pytest.mark.root

STRINGS = (
    "", "x", "/", "//", ".", "..", "../..", "/..", "/proc/self/fd/3", "a\0b", "a\nb", "\ud800", "\udcff", "é",
    "%s%n", "-1", "0x10", "4294967296", "=", ":", ",", " ", "\t", "rw,ro", "lowerdir=/", "size=-1", "CAP_",
    "SCMP_", "a" * 5000,
)  # fmt: skip
NUMBERS = (
    -1,
    0,
    1,
    7,
    255,
    256,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    1.5,
    -0.0,
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], [0], [""], {"": None}, {"a": {"b": []}})
# What would act on the host itself when root does it.
KEPT = (("linux", "namespaces"), ("linux", "cgroupsPath"), ("root",), ("hooks",), ("linux", "netDevices"))

Place = tuple[Any, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    if at:
        yield at
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, member in members:
        yield from places(member, (*at, name))


def document() -> dict[str, Any]:
    """The example with more in it."""
    from ocirt.spec.example import example

    spec = copy.deepcopy(example())
    spec["process"].update(terminal=False, user={"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5]})
    spec["process"]["oomScoreAdj"] = 1
    spec["mounts"].append({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["size=1m", "ro"]})
    spec["mounts"].append(
        {"destination": "/b", "type": "bind", "source": "rootfs", "options": ["rbind", "ro"]}
    )
    spec["annotations"] = {"a": "b"}
    spec["linux"].update(
        sysctl={"net.ipv4.ip_forward": "1"},
        devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0}],
        rootfsPropagation="rprivate",
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                 "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]}
            ],
        },
    )  # fmt: skip
    spec["linux"]["resources"] = {
        "devices": [{"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}],
        "memory": {"limit": 1 << 30},
        "cpu": {"shares": 512, "quota": 100000, "period": 100000},
        "pids": {"limit": 64},
    }  # fmt: skip
    return spec


def hostile(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice((rng.choice(STRINGS), rng.choice(NUMBERS), rng.choice(OTHERS))))


def mutate(rng: random.Random, spec: dict[str, Any]) -> Place:
    """Change one or a few places of the document; the last one changed."""
    at: Place = ()
    for _ in range(rng.choice((1, 1, 2, 4))):
        allowed = [at for at in places(spec) if not any(at[: len(kept)] == kept for kept in KEPT)]
        at = rng.choice(allowed)
        owner = spec
        for name in at[:-1]:
            owner = owner[name]
        value = hostile(rng)
        what = rng.randrange(6)
        if what == 0:
            del owner[at[-1]]
        elif what == 1 and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[at[-1]]))
        elif what == 2 and isinstance(owner, dict):
            owner[str(rng.choice(STRINGS))] = value
        else:
            owner[at[-1]] = value
    return at


def dump(path: Path, spec: Any) -> None:
    # As json.dumps escapes them, lone surrogates reach the parser.
    path.write_text(json.dumps(spec))


@pytest.fixture(params=[300, pytest.param(8_000, marks=pytest.mark.slow)])
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_fuzz_config_json_is_compiled_or_refused(tmp_path: Path, count: int) -> None:
    """Everything before the first change to the machine; namespaces, hooks and paths included."""
    (tmp_path / "rootfs").mkdir()
    rng = random.Random(f"config {count}")
    compiled = refused = 0
    for _ in range(count):
        spec = document()
        at = mutate(rng, spec)
        dump(tmp_path / "config.json", spec)
        try:
            ctx, _ = build_create(str(tmp_path), "fuzz", CreateOptions())
            ctx.plan.encode(4, False)
            compiled += 1
        except OcirtError as error:
            refused += bool(str(error))
        except Exception as error:
            raise AssertionError(f"{at}: {type(error).__name__}: {error}: {json.dumps(spec)}") from error
    assert compiled > count / 20
    assert refused > count / 20


def is_one_line(done: subprocess.CompletedProcess[str]) -> bool:
    lines = done.stderr.count("\n")
    return lines == 1 and "Traceback" not in done.stderr and "internal error" not in done.stderr


def test_fuzz_a_changed_config_makes_a_container_or_nothing(
    runtime: Runtime, bundle: Bundle, sentinel: Path, count: int
) -> None:
    rng = random.Random(f"create {count}")
    made = 0
    for _ in range(count // 10):
        spec = document()
        mutate(rng, spec)
        dump(bundle.path / "config.json", spec)
        container = runtime.new_id()
        with open(bundle.path / "stderr", "w+") as stderr:
            # In a mount namespace of its own: a wrong path must not reach the host's mounts.
            done = subprocess.run(
                ["unshare", "-m", *runtime.command("create", "--bundle", bundle.path, container)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, timeout=60,
            )  # fmt: skip
            stderr.seek(0)
            said = subprocess.CompletedProcess(done.args, done.returncode, "", stderr.read())
        if done.returncode == 0:
            made += 1
            runtime("delete", "--force", container, check=True)
        else:
            assert is_one_line(said), (said.stderr, json.dumps(spec))
        runtime.ids.remove(container)
        assert not (runtime.root / container).exists()
        assert not [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(f"/{container}")]
    assert made


TEXTS = (
    b"", b"{", b"null", b"[]", b"0", b'"x"', b"{}", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"\0", b"{}{}",
    b"{} x", b"[" * 100_000, b'{"a":' * 100_000, b'{"ociVersion": 1' + b"0" * 5000 + b"}",
    b'{"ociVersion": 1e999}',
    b'{"ociVersion": NaN}', b'{"ociVersion": "1.0.2", "ociVersion": "x"}', b'{"ociVersion": "\\ud800"}',
    b'{"ociVersion": "1.0.2", "process": null, "root": null}', b'{"\xc3": 1}', b'{"a": 01}', b"{'a': 1}",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:16]))
def test_fuzz_what_is_no_config_is_refused(runtime: Runtime, bundle: Bundle, text: bytes) -> None:
    (bundle.path / "config.json").write_bytes(text)
    done = runtime("run", "--bundle", bundle.path, runtime.new_id())
    assert done.returncode == 1
    assert is_one_line(done), done.stderr
    assert not runtime.root.exists() or not list(runtime.root.iterdir())


def test_fuzz_bits_of_config_json_are_flipped(tmp_path: Path, count: int) -> None:
    (tmp_path / "rootfs").mkdir()
    whole = json.dumps(document()).encode()
    rng = random.Random(f"bits {count}")
    for _ in range(count // 2):
        text = bytearray(whole)
        for _ in range(rng.choice((1, 3, 9))):
            text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
        (tmp_path / "config.json").write_bytes(text[: rng.choice((len(text), rng.randrange(len(text))))])
        try:
            build_create(str(tmp_path), "fuzz", CreateOptions())
        except OcirtError:
            continue
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}: {bytes(text)!r}") from error


def test_fuzz_state_json(runtime: Runtime, bundle: Bundle, sentinel: Path) -> None:
    """No command takes a damaged state for anything else, and none kills whom it names."""
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    path = runtime.root / container / "state.json"
    saved = path.read_text()
    state = json.loads(saved)
    rng = random.Random("state")
    texts = ["", "{", "[]", "null", "0", "{}", '{"format": 1}', '{"format": 2}', '{"format": []}']
    for _ in range(25):
        changed = copy.deepcopy(state)
        at = rng.choice(list(places(changed)))
        owner = changed
        for name in at[:-1]:
            owner = owner[name]
        owner[at[-1]] = hostile(rng)
        texts.append(json.dumps(changed))
    try:
        for text in texts:
            path.write_text(text)
            for words in (
                ["state", container],
                ["list"],
                ["kill", container, "0"],
                ["exec", container, "/bin/true"],
            ):
                done = runtime(*words)
                assert "Traceback" not in done.stderr, (words, text)
                assert "internal error" not in done.stderr, (words, done.stderr, text)
                assert done.returncode == 0 or is_one_line(done), (words, done.stderr, text)
    finally:
        path.write_text(saved)
    assert runtime.state(container)["status"] == "running"
    state["pid"] = os.getpid()  # another's process: the start time does not fit
    path.write_text(json.dumps(state))
    assert runtime("kill", container, "KILL").returncode == 1
    assert runtime.state(container)["status"] == "stopped"
    path.write_text(saved)


def test_fuzz_exec_process_and_user(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start_bundle(bundle.args("/bin/sleep", "60"))
    rng = random.Random("exec")
    file = bundle.path / "process.json"
    valid = document()["process"]
    valid["args"] = ["/bin/true"]
    more = (
        ["--env", "A=b"],
        ["--cap", "CAP_KILL"],
        ["--user", "1:1"],
        ["--additional-gids", "7"],
        ["--cwd", "/"],
        [],
    )
    ran = 0
    for i in range(36):
        spec = {"process": copy.deepcopy(valid)}
        at = rng.choice([at for at in places(spec) if len(at) > 1])
        owner: Any = spec
        for name in at[:-1]:
            owner = owner[name]
        owner[at[-1]] = hostile(rng)
        dump(file, spec["process"])
        done = runtime("exec", *more[i % len(more)], "--process", file, container)
        ran += done.returncode == 0
        assert done.returncode in (0, 255), (done.stderr, spec)
        assert done.returncode == 0 or is_one_line(done), (done.stderr, more[i % len(more)], spec)
    assert ran
    for text in (*STRINGS, "0:", "0:0:0", "00", "+1", "1 ", "\u0661", "1e3"):
        if "\0" in text or "\ud800" in text:
            continue
        done = runtime("exec", f"--user={text}", container, "/bin/true")
        assert done.returncode == (0 if text == "00" else 255), (text, done.stderr)
        assert done.returncode == 0 or is_one_line(done), done.stderr
    assert len(runtime("exec", container, "/bin/ps", check=True).stdout.splitlines()) == 3


def test_fuzz_users_and_mount_options(count: int) -> None:
    rng = random.Random(f"words {count}")
    known = [
        *mount_options.ATTRIBUTES,
        *mount_options.ATIME,
        "bind",
        "rbind",
        "remount",
        "idmap",
        "rro",
        "rshared",
    ]
    for _ in range(count * 5):
        text = "".join(rng.choice("0123456789:-+ x\0\n") for _ in range(rng.randrange(14)))
        try:
            uid, gid = process.parse_user(text)
            assert 0 <= uid < 2**32 - 1
            assert gid is None or 0 <= gid < 2**32 - 1
        except OcirtError:
            pass
        words = [rng.choice((rng.choice(known), rng.choice(STRINGS))) for _ in range(rng.randrange(6))]
        try:
            options = mount_options.parse(words, "mounts[0]")
            assert not options.attr_set & options.attr_clear & ~0x70
        except OcirtError:
            continue


@pytest.mark.parametrize(
    "maps",
    [
        [], [{}], [{"containerID": 0, "hostID": 0, "size": 0}], [{"containerID": -1, "hostID": 0, "size": 1}],
        [{"containerID": 0, "hostID": 100000, "size": 2**32}],
        [{"containerID": 2**32 - 1, "hostID": 5, "size": 1}],
        [{"containerID": 1, "hostID": 100000, "size": 10}],
        [{"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 5, "hostID": 200000, "size": 10}],
        [{"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 10, "hostID": 100005, "size": 10}],
        [{"containerID": 0, "hostID": 4294967290, "size": 10}],
        [{"containerID": i, "hostID": i, "size": 1} for i in range(400)],
        [{"containerID": "0", "hostID": 0, "size": 1}], [{"containerID": 0, "hostID": 1.5, "size": 1}],
    ],
    ids=range(13),
)  # fmt: skip
def test_fuzz_id_maps(runtime: Runtime, bundle: Bundle, maps: list[dict[str, Any]]) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = maps
    done = runtime.run(bundle)
    assert done.returncode == 1
    assert is_one_line(done), done.stderr
    assert not (runtime.root / runtime.ids[-1]).exists()
