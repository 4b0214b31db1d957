#!/usr/bin/env python3
"""Compare `oci-image unpack` with umoci, skopeo, podman and the shell, alternately in one run: ratios.

    make bench-images                        # two images, gzip and zstd, 10 rounds
    python bench/unpack.py --rounds 10 --only typical-gzip

The images are made on a tmpfs so that the disk's noise stays out: "typical" is Debian by debootstrap, a
layer of Python packages by pip and one of whiteouts and changes, some 600 MB in more than 20,000 files
(what is fetched for it is kept in /var/cache/ocirt-tests); "large" is a layer of 1 GB in eight files.
The shell pipe (`igzip -dc` or `zstd -dc`, then `tar x`, layer by layer) verifies no digest and knows no
whiteouts: it is the floor. skopeo and podman fill a containers-storage with the overlay driver. igzip,
pigz and unpigz are taken out of their PATH, because containers/storage would execute them. Run it on a
quiet machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


from tests.lib.debian import CACHE, system
from tests.lib.images import make_image, member, tar_of

OCI_IMAGE = os.environ.get("OCI_IMAGE") or str(Path(sys.executable).parent / "oci-image")
PACKAGES = ("numpy", "scipy", "pandas", "sympy", "django")
TARGETS = {"fastest": 0.5, "shell-gzip": 1.2, "shell-zstd": 1.6, "rss": 100_000}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--only", help="comma-separated names: typical-gzip, typical-zstd, large-gzip, large-zstd"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "unpack.json")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else None
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ocirt-bench-", dir="/dev/shm") as directory:
        work = Path(directory)
        for kind, layers in (("typical", typical), ("large", large)):
            names = [f"{kind}-{form}" for form in ("gzip", "zstd")]
            names = [name for name in names if wanted is None or name in wanted]
            if not names:
                continue
            data = list(layers())
            about = {"bytes": sum(map(len, data)), "entries": sum(map(entries, data)), "layers": len(data)}
            for name in names:
                make_image(work / "l", name, *data, compression=name.rpartition("-")[2])
            del data
            for name in names:
                results[name] = {**about, **measure(work, name, arguments.rounds)}
                report(name, results[name])
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    document = {"machine": machine, "rounds": arguments.rounds, "load": os.getloadavg()[0], "images": results}
    arguments.output.write_text(json.dumps(document, indent=2) + "\n")
    return 0


# Images


def typical() -> Iterator[bytes]:
    """Debian by debootstrap, Python packages by pip, and a layer of whiteouts and changes."""
    yield packed(system())
    yield packed(python_packages(), "usr/local/lib/python3.11/dist-packages")
    changes = [(f"etc/changed-{i}", "x" * 500) for i in range(300)]
    yield tar_of(("usr/share/doc/.wh..wh..opq", ""), ("usr/share/perl5/.wh.Debconf", ""), *changes)


def packed(directory: Path, name: str = ".") -> bytes:
    """A tar stream of a directory, as docker writes layers: times in whole seconds."""
    words = ["tar", "--numeric-owner", "--one-file-system", "--transform", f"s,^[.],{name},", "-C", directory]
    return subprocess.run([*words, "-c", "."], check=True, capture_output=True).stdout


def python_packages() -> Path:
    """What pip installs of PACKAGES, kept for later runs."""
    directory = CACHE / "python"
    if not directory.is_dir():
        CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial = CACHE / f".python.{os.getpid()}"
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", partial]
        subprocess.run([*words, *PACKAGES], check=True)
        partial.rename(directory)
    return directory


def large() -> Iterator[bytes]:
    """Text and noise: it compresses about as programs do."""
    generator = random.Random(1)
    text = b"".join(path.read_bytes() for path in sorted(Path("/usr/share/perl5").rglob("*.pm")))[: 4 << 20]
    blocks = [text[i << 16 : (i + 1) << 16] for i in range(len(text) >> 16)]
    blocks += [generator.randbytes(1 << 16) for _ in range(len(blocks) // 2)]
    yield tar_of(
        *((member(f"large/{i}"), b"".join(generator.choice(blocks) for _ in range(1907))) for i in range(8))
    )


def entries(data: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return len(tar.getmembers())


# Rounds


def measure(work: Path, name: str, rounds: int) -> dict[str, Any]:
    ways = competitors(work, name)
    times: dict[str, list[float]] = {way: [] for way in ways}
    peak = 0
    for number in range(rounds + 1):
        for way, (run, clean) in ways.items():
            begin = time.perf_counter()
            run()
            took = time.perf_counter() - begin
            if way == "oci-image":
                peak = max(peak, peak_rss(work, name) if number == 0 else 0)
            clean()
            if number:  # the first round warms up
                times[way].append(took)
    medians = {way: statistics.median(values) for way, values in times.items()}
    spread = {way: [min(values), max(values)] for way, values in times.items()}
    return {"seconds": medians, "range": spread, "rss": peak}


def competitors(work: Path, name: str) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    out = work / "out"
    store = work / "s"
    storage = ["--root", str(store), "--runroot", str(work / "r"), "--storage-driver", "overlay"]
    reference = f"containers-storage:[overlay@{store}+{work / 'r'}]localhost/{name}"
    path = plain_path(work)

    def command(*words: object) -> Callable[[], None]:
        def run() -> None:
            done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=path)
            if done.returncode:
                raise SystemExit(f"{words[0]}: {done.stderr[-500:]}")

        return run

    def remove() -> None:
        shutil.rmtree(out, ignore_errors=True)

    def reset() -> None:
        subprocess.run(["podman", *storage, "rmi", "--all", "--force"], capture_output=True)

    ways = {
        "oci-image": (command(OCI_IMAGE, "unpack", f"oci:{work}/l:{name}", out), remove),
        "umoci": (command("umoci", "raw", "unpack", "--image", f"{work}/l:{name}", out), remove),
        "skopeo": (command("skopeo", "copy", "--quiet", f"oci:{work}/l:{name}", reference), reset),
        "podman": (command("podman", *storage, "pull", "--quiet", f"oci:{work}/l:{name}"), reset),
        "shell": (shell(work, name, out), remove),
    }
    if name.endswith("zstd"):
        del ways["umoci"]  # Debian's reads no zstd
    return {way: pair for way, pair in ways.items() if way in ("oci-image", "shell") or shutil.which(way)}


def plain_path(work: Path) -> dict[str, str]:
    """An environment whose PATH has no faster gunzip for containers/storage to execute."""
    directory = work / "bin"
    if not directory.is_dir():
        directory.mkdir()
        for name in ("umoci", "skopeo", "podman", "crun", "runc", "conmon", "newuidmap", "newgidmap"):
            if found := shutil.which(name):
                (directory / name).symlink_to(found)
    return {"PATH": str(directory), "HOME": str(work)}


def shell(work: Path, name: str, out: Path) -> Callable[[], None]:
    index = json.loads((work / "l/index.json").read_text())
    (top,) = (
        one for one in index["manifests"] if one["annotations"]["org.opencontainers.image.ref.name"] == name
    )
    manifest = json.loads((work / "l/blobs/sha256" / top["digest"][7:]).read_text())
    program = "zstd" if name.endswith("zstd") else "igzip" if shutil.which("igzip") else "gzip"
    blobs = [work / "l/blobs/sha256" / layer["digest"][7:] for layer in manifest["layers"]]
    script = "; ".join(f"{program} -dc < {blob} | tar -C {out} -xp" for blob in blobs)

    def run() -> None:
        subprocess.run(["sh", "-c", f"set -e; mkdir {out}; {script}"], check=True)

    return run


def peak_rss(work: Path, name: str) -> int:
    """kB of oci-image's largest moment, in a process that waits for it alone."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    target = work / "rss"
    words = [sys.executable, "-c", code, OCI_IMAGE, "unpack", f"oci:{work}/l:{name}", str(target)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    shutil.rmtree(target)
    return int(done.stdout)


def report(name: str, result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    ours = seconds["oci-image"]
    peers = [seconds[way] for way in ("umoci", "skopeo", "podman") if way in seconds]
    print(f"\n{name}: {result['bytes'] / 1e6:.0f} MB, {result['entries']} entries, {result['layers']} layers")
    for way, value in seconds.items():
        low, high = result["range"][way]
        print(f"  {way:<10}{value:7.2f} s  ({low:.2f} to {high:.2f})  oci-image is {ours / value:.2f} of it")
    limit = TARGETS["shell-gzip" if name.endswith("gzip") else "shell-zstd"]
    wanted = TARGETS["fastest"]
    print(f"  to the fastest of these: {ours / min(peers):.2f} (wanted: {wanted})")
    print(f"  to the shell pipe:           {ours / seconds['shell']:.2f} (wanted: {limit})")
    print(f"  peak RSS: {result['rss'] / 1000:.0f} MB (wanted: {TARGETS['rss'] // 1000})", flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    sys.exit(main())
