"""spec: a config.json to begin with."""

from __future__ import annotations

import posix

from ocirt.cli.parse import BOOL, TEXT, expect
from ocirt.errors import OcirtError, StepError
from ocirt.host import Host
from ocirt.spec.example import example, rootless_example
from ocirt.spec.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {"bundle": TEXT, "b": "bundle", "rootless": BOOL}


def run(call: Call) -> int:
    expect("spec", call.words, 0, 0)
    path = f"{call.values.get('bundle') or '.'}/config.json".removeprefix("./")
    whole_v2 = Host().cgroup_layout == "v2"
    if call.values.get("rootless"):
        spec = rootless_example(posix.geteuid(), posix.getegid(), cgroup_namespace=whole_v2)
    else:
        spec = example(cgroup_namespace=whole_v2)
    text = dumps(spec, "\t") + "\n"
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise OcirtError(f"file {path} exists: remove it first") from None
    except OSError as error:
        raise StepError(error.errno or 0, "open", "--bundle", path) from None
    try:
        posix.write(fd, text.encode())
    finally:
        posix.close(fd)
    return 0
