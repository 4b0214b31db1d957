#!/usr/bin/env python3
"""Compare ocirt with runc and crun: the same bundle, alternately in one run, medians and ratios.

    make bench                          # the usual table, and bench/last.json
    python bench/bench.py --rounds 60   # more rounds

Two rhythms are measured: "block", one command after the other, and "spaced", with 120 ms of
idling before each, which is what a real host looks like (the kernel's grace periods differ).
All runtimes run in one private mount namespace without /sys/fs/cgroup/unified, because Debian's
crun refuses the hybrid layout; their state directories are on a tmpfs, as /run is on real hosts.
Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ocirt import kernel
from ocirt.spec.example import example
from tests.lib.runtime import installed_ocirt

SPACE = 0.120  # seconds of idling in the "spaced" rhythm
PEERS = ("ocirt", "runc", "crun")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each measurement (at least 30)")
    parser.add_argument("--only", help="comma-separated names of measurements")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "last.json")
    arguments = parser.parse_args()
    kernel.unshare(kernel.CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    if os.path.ismount("/sys/fs/cgroup/unified"):
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
    runtimes = {name: path for name in PEERS if (path := find(name))}
    with tempfile.TemporaryDirectory(prefix="ocirt-bench-", dir="/tmp") as directory:
        bench = Bench(runtimes, Path(directory), arguments.rounds)
        try:
            results = bench.all(arguments.only.split(",") if arguments.only else None)
        finally:
            subprocess.run(["umount", Path(directory) / "run"], check=True)
    report(results)
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "rounds": arguments.rounds,
        "versions": {name: first_line(path, "--version") for name, path in runtimes.items()},
        "command": " ".join(["python", "bench/bench.py", *sys.argv[1:]]),
    }
    arguments.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
    return 0


def find(name: str) -> str | None:
    return str(installed_ocirt()) if name == "ocirt" else shutil.which(name)


def first_line(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True).stdout.partition("\n")[0]


class Bench:
    """One bundle, one state root for each runtime."""

    def __init__(self, runtimes: dict[str, str], directory: Path, rounds: int) -> None:
        self.runtimes = runtimes
        self.rounds = rounds
        # As on a real host, where /run is a tmpfs.
        (directory / "run").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory / "run"], check=True)
        self.roots = {name: directory / "run" / name for name in runtimes}
        self.bundle = self.make_bundle(directory / "bundle", ["/bin/true"])
        self.sleeper = self.make_bundle(directory / "sleeper", ["/bin/sleep", "1000"])
        self.count = 0

    def make_bundle(self, path: Path, args: list[str]) -> Path:
        for name in ("bin", "dev", "proc", "sys", "etc"):
            (path / "rootfs" / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", path / "rootfs/bin/busybox")
        for applet in ("true", "sleep", "sh"):
            (path / "rootfs/bin" / applet).symlink_to("busybox")
        spec = example()
        spec["ociVersion"] = "1.0.2"  # crun 1.8 refuses what it does not know
        spec["process"].update(terminal=False, args=args)
        (path / "config.json").write_text(json.dumps(spec))
        return path

    def all(self, only: list[str] | None) -> dict[str, dict[str, object]]:
        measurements: dict[str, Callable[[], dict[str, object]]] = {
            "run": lambda: self.times(self.run),
            "run-spaced": lambda: self.times(self.run, spaced=True),
            "create-start-delete": lambda: self.times(self.create_start_delete),
            "create-start-delete-spaced": lambda: self.times(self.create_start_delete, spaced=True),
            "state": lambda: self.with_sleeper(self.state),
            "exec": lambda: self.with_sleeper(self.execute),
            "exec-spaced": lambda: self.with_sleeper(self.execute, spaced=True),
            "update": lambda: self.with_sleeper(self.update),
            "pause-resume": lambda: self.with_sleeper(self.pause_resume),
            "events-stats": lambda: self.with_sleeper(self.stats, without="crun"),  # which has none
            "in-process": self.in_process,
            "init-rss": self.init_rss,
            "runtime-rss": self.runtime_rss,
            "memory-limit": self.memory_limit,
        }
        return {name: call() for name, call in measurements.items() if not only or name in only}

    def new_id(self) -> str:
        self.count += 1
        return f"ocirt-bench-{os.getpid()}-{self.count}"

    def call(self, name: str, *words: str) -> None:
        status = os.waitstatus_to_exitcode(self.spawn(name, *words))
        if status != 0:
            raise SystemExit(f"{name} {' '.join(words)}: status {status}")

    def spawn(self, name: str, *words: str) -> int:
        path = self.runtimes[name]
        argv = [path, "--root", str(self.roots[name]), *words]
        pid = os.posix_spawn(path, argv, os.environ, file_actions=STDIO)
        return os.waitpid(pid, 0)[1]

    # What is measured

    def run(self, name: str) -> None:
        self.call(name, "run", "--bundle", str(self.bundle), self.new_id())

    def create_start_delete(self, name: str) -> None:
        container_id = self.new_id()
        pid_file = self.bundle / "pid"
        self.call(name, "create", "--bundle", str(self.bundle), "--pid-file", str(pid_file), container_id)
        pidfd = os.pidfd_open(int(pid_file.read_text()))
        self.call(name, "start", container_id)
        select.select([pidfd], [], [])
        os.close(pidfd)
        self.call(name, "delete", container_id)

    def state(self, name: str, container_id: str) -> None:
        self.call(name, "state", container_id)

    def execute(self, name: str, container_id: str) -> None:
        self.call(name, "exec", container_id, "/bin/true")

    def update(self, name: str, container_id: str) -> None:
        self.call(name, "update", "--pids-limit", "50", container_id)

    def pause_resume(self, name: str, container_id: str) -> None:
        self.call(name, "pause", container_id)
        self.call(name, "resume", container_id)

    def stats(self, name: str, container_id: str) -> None:
        self.call(name, "events", "--stats", container_id)

    # How

    def times(
        self, action: Callable[[str], None], spaced: bool = False, without: str = ""
    ) -> dict[str, object]:
        """Alternate between the runtimes; block: ten in a row of each, so that rhythms stay apart."""
        samples: dict[str, list[float]] = {name: [] for name in self.runtimes if name != without}
        if spaced:
            for _ in range(self.rounds):
                for name in samples:
                    time.sleep(SPACE)
                    samples[name].append(timed(action, name))
        else:
            for _ in range(max(1, self.rounds // 10)):
                for name in samples:
                    action(name)  # not counted: the first after another runtime
                    samples[name] += [timed(action, name) for _ in range(10)]
        return summary(samples)

    def with_sleeper(
        self, action: Callable[[str, str], None], spaced: bool = False, without: str = ""
    ) -> dict[str, object]:
        ids = {}
        for name in self.runtimes:
            ids[name] = self.new_id()
            self.call(name, "run", "--detach", "--bundle", str(self.sleeper), ids[name])
        try:
            return self.times(lambda name: action(name, ids[name]), spaced, without)
        finally:
            for name, container_id in ids.items():
                self.call(name, "delete", "--force", container_id)

    def in_process(self) -> dict[str, object]:
        """Container.create to the program's exit inside this process; the same with the delete, which
        `crun run` does as well; and crun as a subprocess.
        """
        from ocirt import Container
        from ocirt.options import CreateOptions

        root = str(self.roots["ocirt"])

        def create_to_exit() -> tuple[float, float]:
            started = time.perf_counter()
            container = Container.create(
                str(self.bundle), self.new_id(), root=root, options=CreateOptions(), start=True
            )
            container.wait()
            ended = time.perf_counter()
            container.delete()
            return (ended - started) * 1000, (time.perf_counter() - started) * 1000

        samples: dict[str, list[float]] = {"to exit": [], "with delete": [], "crun": []}
        for _ in range(max(1, self.rounds // 10)):
            create_to_exit()
            for _ in range(10):
                to_exit, to_end = create_to_exit()
                samples["to exit"].append(to_exit)
                samples["with delete"].append(to_end)
            if "crun" in self.runtimes:
                self.run("crun")
                samples["crun"] += [timed(self.run, "crun") for _ in range(10)]
        found = summary({name: values for name, values in samples.items() if values})
        if samples["crun"]:
            medians = {name: statistics.median(values) for name, values in samples.items()}
            found["ratio"] = {
                "crun": round(medians["to exit"] / medians["crun"], 2),
                "crun (with delete)": round(medians["with delete"] / medians["crun"], 2),
            }
        return found

    def init_rss(self) -> dict[str, object]:
        """RSS in KiB of a created container's waiting init."""
        found = {}
        for name in self.runtimes:
            container_id = self.new_id()
            pid_file = self.bundle / "pid"
            self.call(name, "create", "--bundle", str(self.bundle), "--pid-file", str(pid_file), container_id)
            status = Path(f"/proc/{pid_file.read_text()}/status").read_text()
            found[name] = next(
                int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")
            )
            self.call(name, "delete", "--force", container_id)
        return {"KiB": found, "ratio": ratios(found)}

    def runtime_rss(self) -> dict[str, object]:
        """Peak RSS in KiB of the largest process of `run`, as the kernel counted it.

        Started by a small program: a child of ours would begin with our own size.
        """
        found = {}
        for name, path in self.runtimes.items():
            words = ["--root", str(self.roots[name]), "run", "--bundle", str(self.bundle), self.new_id()]
            call = ["/bin/busybox", "time", "-f", "%M", path, *words]
            done = subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
            # busybox takes the kernel's KiB for pages.
            found[name] = int(done.stderr.split()[-1]) * 1024 // os.sysconf("SC_PAGE_SIZE")
        return {"KiB": found, "ratio": ratios(found)}

    def memory_limit(self) -> dict[str, object]:
        """Smallest memory limit in KiB in which `true` runs, by bisection in steps of 4 KiB."""
        found = {}
        for name in self.runtimes:
            low, high = 0, 4096
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self.runs_within(name, middle * 4096) else (middle, high)
            found[name] = high * 4
        return {"KiB": found, "ratio": ratios(found)}

    def runs_within(self, name: str, limit: int) -> bool:
        config = self.bundle / "config.json"
        original = config.read_text()
        spec = json.loads(original)
        spec["linux"]["resources"]["memory"] = {"limit": limit}
        config.write_text(json.dumps(spec))
        container_id = self.new_id()
        try:
            good = all(
                self.spawn(name, "run", "--bundle", str(self.bundle), container_id) == 0 for _ in range(3)
            )
        finally:
            config.write_text(original)
            self.spawn(name, "delete", "--force", container_id)
        return good


STDIO = [
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
]


def timed(action: Callable[[str], None], name: str) -> float:
    started = time.perf_counter()
    action(name)
    return (time.perf_counter() - started) * 1000


def summary(samples: dict[str, list[float]]) -> dict[str, object]:
    medians = {name: round(statistics.median(values), 2) for name, values in samples.items()}
    count = min(len(values) for values in samples.values())
    return {"ms": medians, "ratio": ratios(medians), "n": count}


def ratios(values: dict[str, float]) -> dict[str, float]:
    """ocirt as a share of each other."""
    own = next(iter(values.values()))
    return {name: round(own / value, 2) for name, value in list(values.items())[1:] if value}


def report(results: dict[str, dict[str, object]]) -> None:
    for name, result in results.items():
        unit = "ms" if "ms" in result else "KiB"
        values = result[unit]
        assert isinstance(values, dict)
        numbers = "  ".join(f"{who} {value:g} {unit}" for who, value in values.items())
        shares = result["ratio"]
        assert isinstance(shares, dict)
        text = "  ".join(f"{share:g} x {who}" for who, share in shares.items())
        print(f"{name:28} {numbers:48} ocirt = {text}")


if __name__ == "__main__":
    sys.exit(main())
