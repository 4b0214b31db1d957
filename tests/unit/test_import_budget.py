"""What each command loads. Start-up is paid on each of the five calls an engine makes for a container,
about 0.6 ms per thousand lines: a module that is added here needs a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]


def names(text: str) -> set[str]:
    return set(text.split())


# C modules only: nothing of the standard library that is written in Python.
BUILTIN = names("_json _socket _stat _struct errno fcntl select _signal")
EVERY = names(
    "ocirt ocirt.cli ocirt.cli.parse ocirt.cli.root ocirt.container ocirt.errors "
    "ocirt.kernel ocirt.log ocirt.procfs ocirt.running ocirt.spec ocirt.spec.jsontext ocirt.state"
)
SHIM = names("ocirt._shim ocirt._shim.lib _cffi_backend")  # 0.6 ms
LAUNCH = SHIM | names("ocirt.initbin ocirt.interrupt ocirt.launch ocirt.plan")
FREEZER = names("ocirt.cgroups ocirt.cgroups.freezer")
CGROUPS = FREEZER | names(
    "ocirt.cgroups.files ocirt.cgroups.manager ocirt.cgroups.resources ocirt.cgroups.v1 ocirt.cgroups.v2"
)
COMPILE = names(
    "ocirt.build ocirt.capabilities ocirt.cgroup_mount ocirt.cgroups.apply ocirt.cgroups.devices "
    "ocirt.cli.create ocirt.context ocirt.devices ocirt.fields ocirt.hooks ocirt.host ocirt.mount_options "
    "ocirt.mounts ocirt.namespaces ocirt.options ocirt.process ocirt.rootfs ocirt.terminal "
    "ocirt.spec._compiled ocirt.spec.check ocirt.spec.load ocirt.spec.rules"
)
EXECUTE = names(
    "ocirt.build ocirt.capabilities ocirt.cgroups.apply ocirt.cli.create ocirt.context ocirt.fields "
    "ocirt.host ocirt.namespaces ocirt.options ocirt.process ocirt.terminal "
    "ocirt.spec._compiled ocirt.spec.check ocirt.spec.load ocirt.spec.rules"
)
CHECK = names("ocirt.spec._compiled ocirt.spec.check ocirt.spec.rules")
BUDGET = {
    "create": LAUNCH | CGROUPS | COMPILE,
    "start": LAUNCH | CGROUPS | {"ocirt.cli.start"},
    "state": {"ocirt.cli.output", "ocirt.cli.state"},
    "pause": {"ocirt.cli.pause", "ocirt.freeze"} | FREEZER,
    "resume": {"ocirt.cli.resume", "ocirt.freeze"} | FREEZER,
    "update": CGROUPS
    | CHECK
    | names("ocirt.cgroups.devices ocirt.cgroups.update ocirt.cli.update ocirt.update"),
    "events": FREEZER
    | names("ocirt.cgroups.files ocirt.cgroups.stats ocirt.cli.events ocirt.cli.output ocirt.events"),
    "wait": SHIM | CGROUPS | names("ocirt.cli.output ocirt.cli.wait ocirt.events"),
    "ps": {"ocirt.cli.output", "ocirt.cli.ps"} | CGROUPS,
    "exec": LAUNCH | CGROUPS | EXECUTE | {"ocirt.cli.exec", "ocirt.foreground"},
    "kill": SHIM | CGROUPS | {"ocirt.cli.kill"},
    "delete": SHIM | CGROUPS | {"ocirt.cli.delete"},
    "run": LAUNCH | CGROUPS | COMPILE | {"ocirt.cli.run", "ocirt.foreground"},
    "list": {"ocirt.cli.list", "ocirt.cli.output"},
}

# Runs one command and writes the names of the modules that it loaded to fd 3's file.
SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {site!r}]
before = set(sys.modules)
from ocirt.cli import main
status = main(sys.argv[2:])
loaded = sorted(set(sys.modules) - before - {{"__future__"}})
with open(sys.argv[1], "w") as stream:
    stream.write(repr(loaded))
raise SystemExit(status)
"""


class Loader:
    def __init__(self, directory: Path, bundle: Bundle) -> None:
        self.report = directory / "modules"
        self.state = directory / "state"
        bundle.write()
        self.bundle = bundle.path

    def loaded(self, *words: object) -> set[str]:
        """Modules that a command loaded; it must succeed."""
        import _cffi_backend

        script = SCRIPT.format(root=str(ROOT), site=str(Path(_cffi_backend.__file__).parent))
        command = [sys.executable, "-IS", "-c", script, self.report, "--root", self.state, *words]
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(self.bundle / "stderr", "w"),
            timeout=60,
        )
        assert done.returncode == 0, (self.bundle / "stderr").read_text()
        return set(json.loads(self.report.read_text().replace("'", '"')))


@pytest.mark.root
def test_commands_load_only_what_they_need(tmp_path: Path, bundle: Bundle) -> None:
    loader = Loader(tmp_path, bundle.args("/bin/sleep", "100"))
    name = "octest-budget"
    seen = {}
    try:
        seen["create"] = loader.loaded("create", "--bundle", bundle.path, name)
        seen["state"] = loader.loaded("state", name)
        seen["start"] = loader.loaded("start", name)
        seen["pause"] = loader.loaded("pause", name)
        seen["update"] = loader.loaded("update", "--pids-limit", "50", name)
        seen["ps"] = loader.loaded("ps", "--format", "json", name)
        seen["resume"] = loader.loaded("resume", name)
        seen["events"] = loader.loaded("events", "--stats", name)
        seen["list"] = loader.loaded("list")
        seen["exec"] = loader.loaded("exec", name, "/bin/true")
        seen["kill"] = loader.loaded("kill", name, "KILL")
    finally:
        seen["delete"] = loader.loaded("delete", "--force", name)
    bundle.args("/bin/true").write()
    seen["run"] = loader.loaded("run", "--bundle", bundle.path, name)
    over = {verb: sorted(loaded - BUDGET[verb] - EVERY - BUILTIN) for verb, loaded in seen.items()}
    assert not {verb: extra for verb, extra in over.items() if extra}


def test_no_module_of_the_hot_path_imports_the_standard_library_at_once() -> None:
    """Also those that this machine's cgroup layout does not load."""
    hot = sorted(set().union(EVERY, *BUDGET.values()) | {"ocirt.seccomp", "ocirt.lsm", "ocirt.console"})
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, *{sys.path!r}]; before = set(sys.modules)\n"
        f"for name in {hot!r}:\n"
        "    __import__(name) if name != 'ocirt._shim.lib' else None\n"
        "print(*sorted(n for n in set(sys.modules) - before if n.partition('.')[0] != 'ocirt'))"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"__future__"} <= BUILTIN | SHIM
