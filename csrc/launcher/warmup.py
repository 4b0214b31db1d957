"""What the build does a few times before it takes the snapshot.

CPython adapts code to what it meets there (PEP 659), and finds attributes faster the second time. So
the snapshot is taken of an interpreter that has compiled plans already: for a host that is made up, of
which nothing is kept. Nothing is opened and nothing is asked of the machine that builds.
"""

from __future__ import annotations

from ocirt.build import compile_create
from ocirt.cli import GLOBAL
from ocirt.cli.parse import parse
from ocirt.cli.run import OPTIONS
from ocirt.host import Host
from ocirt.options import CreateOptions
from ocirt.spec.check import check
from ocirt.spec.example import example

TIMES = 16  # code is adapted after eight calls
CONTROLLERS = ("blkio", "cpu,cpuacct", "cpuset", "devices", "freezer", "memory", "pids", "name=systemd")


def warm_up() -> None:
    for _ in range(TIMES):
        for host in (_v1_host(), _v2_host()):
            _compile(host)


def _compile(host: Host) -> None:
    parse(["--root", "root", "run", "-b", "bundle", "id"], GLOBAL, mixed=False)
    parse(["-b", "bundle", "id"], OPTIONS, mixed=True)
    spec = example()
    check(spec)
    plan = compile_create(spec, "/bundle", "id", CreateOptions(), host, start=True).plan
    plan.sent()
    plan.encode(-1)


def _host() -> Host:
    host = Host()
    host.euid = 0
    host.in_userns = False
    host.capabilities = (1 << 41) - 1
    return host


def _v1_host() -> Host:
    host = _host()
    host.cgroup_layout = "v1"
    host.unified_mount = ""
    host.v1_hierarchies = {name: f"/sys/fs/cgroup/{name}" for name in CONTROLLERS}
    host.own_cgroups = dict.fromkeys(CONTROLLERS, "/")
    return host


def _v2_host() -> Host:
    host = _host()
    host.cgroup_layout = "v2"
    host.unified_mount = "/sys/fs/cgroup"
    host.v1_hierarchies = {}
    host.own_cgroups = {"": "/"}
    return host
