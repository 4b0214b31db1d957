"""The store beside other tools, and under kill -9 at every system call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oci_image import gc
from oci_image.store import Store
from tests.lib.images import make_image, make_index, tar_of

ROOT = Path(__file__).resolve().parents[2]
LAYER = tar_of(("etc/motd", "hello\n"), ("bin/tool", "x" * 100_000))


def succeed(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_skopeo_reads_the_store(tmp_path: Path, compression: str) -> None:
    top = make_image(tmp_path / "l", "app:1.0", LAYER, compression=compression)
    seen = json.loads(succeed("skopeo", "inspect", f"oci:{tmp_path}/l:app:1.0"))
    assert seen["Digest"] == top["digest"]
    succeed("skopeo", "copy", f"oci:{tmp_path}/l:app:1.0", f"dir:{tmp_path}/copy")


def test_skopeo_reads_an_index_of_the_store(tmp_path: Path) -> None:
    images = {arch: make_image(tmp_path / "l", arch, LAYER, architecture=arch) for arch in ("amd64", "arm64")}
    make_index(tmp_path / "l", "all", **images)
    succeed("skopeo", "copy", "--all", f"oci:{tmp_path}/l:all", f"oci:{tmp_path}/copy:all")
    with Store.open(f"{tmp_path}/copy") as copy, Store.open(f"{tmp_path}/l") as store:
        assert copy.find("all")["digest"] == store.find("all")["digest"]
        assert gc.fsck(copy) == []


def test_umoci_reads_and_collects_the_store(tmp_path: Path) -> None:
    make_image(tmp_path / "l", "one", LAYER)
    make_image(tmp_path / "l", "two", tar_of(("b", "")))
    assert succeed("umoci", "ls", "--layout", tmp_path / "l").split() == ["one", "two"]
    succeed("umoci", "rm", "--image", f"{tmp_path}/l:two")
    succeed("umoci", "gc", "--layout", tmp_path / "l")
    with Store.open(f"{tmp_path}/l") as store:
        assert [name for name, _ in store.images()] == ["one"]
        assert gc.fsck(store) == []
        assert gc.collect(store).blobs == 0


def test_what_skopeo_and_umoci_write_is_read(tmp_path: Path) -> None:
    make_image(tmp_path / "l", "app", LAYER)
    succeed("skopeo", "copy", f"oci:{tmp_path}/l:app", f"oci:{tmp_path}/s:from-skopeo")
    succeed(
        "umoci",
        "config",
        "--image",
        f"{tmp_path}/s:from-skopeo",
        "--tag",
        "from-umoci",
        "--clear",
        "config.cmd",
    )
    with Store.open(f"{tmp_path}/s") as store:
        assert [name for name, _ in store.images()] == ["from-skopeo", "from-umoci"]
        assert gc.fsck(store) == []


CHANGE = """
import sys
from oci_image import gc
from oci_image.store import Store
from tests.lib.images import make_image, tar_of
make_image(sys.argv[1], "new", tar_of(("b", "of b")))
make_image(sys.argv[1], "old", tar_of(("c", "of c")))
with Store.open(sys.argv[1]) as store:
    store.remove_name("gone")
    gc.collect(store)
"""
# What changes a file or a directory; each call in turn is where the process dies.
CALLS = ("write", "fsync", "rename,renameat,renameat2", "unlink,unlinkat", "mkdir,mkdirat", "flock")


def change(path: Path, *before: str) -> subprocess.CompletedProcess[str]:
    words = [*before, sys.executable, "-P", "-B", "-c", CHANGE, str(path)]
    return subprocess.run(
        words,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("calls", CALLS)
def test_kill_9_at_any_moment_leaves_every_name_whole(tmp_path: Path, calls: str) -> None:
    for count in range(1, 60):
        path = tmp_path / str(count)
        make_image(path, "old", tar_of(("a", "of a")))
        make_image(path, "gone", tar_of(("d", "of d")))
        trace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={calls}"]
        done = change(path, *trace, "-e", f"inject={calls}:signal=SIGKILL:when={count}")
        with Store.open(str(path)) as store:
            assert gc.fsck(store) == [], count
            names = {name for name, _ in store.images()}
            assert names in ({"old", "gone"}, {"old", "gone", "new"}, {"old", "new"})
            gc.collect(store, wait=False)  # no lock is left
            assert gc.fsck(store) == []
        assert list((path / ".oci-image-tmp").iterdir()) == []
        if done.returncode == 0:
            break
        assert done.returncode in (-9, 137), done.stderr
    else:
        pytest.fail("more calls than expected")
    assert count > 2


def test_kill_9_while_a_store_is_made_leaves_one_that_can_be_completed(tmp_path: Path) -> None:
    code = "import sys; from oci_image.store import Store; Store.create(sys.argv[1])"
    calls = "mkdir,mkdirat,rename,renameat,fsync,write"
    for count in range(1, 30):
        path = tmp_path / str(count)
        inject = f"inject={calls}:signal=SIGKILL:when={count}"
        trace = ["strace", "-o", "/dev/null", "-e", f"trace={calls}", "-e", inject]
        done = subprocess.run([*trace, sys.executable, "-B", "-c", code, path], capture_output=True)
        make_image(path, "n", LAYER)
        with Store.open(str(path)) as store:
            assert gc.fsck(store) == []
        if done.returncode == 0:
            break
    assert 3 < count < 29
