"""In the guest: bundles with and without id maps on Linux 6.1, which mounts overlays by mount(2) alone.

Run with the checkout's virtual environment; says "ok" at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from oci_image import bundle, drivers
from oci_image.conversion import Overrides
from oci_image.snapshots import Snapshots
from oci_image.transports import Location, open_source
from oci_image.userns import Map, Maps
from tests.lib.images import make_image
from tests.system.test_oci_image_bundle import LAYERS

SCRIPT = "id; ls -ln /data/seed; echo x > /new; ls -ln /new"
TOLD = ["uid=0(root) gid=0(root)", "33 0", "0 0"]


def main() -> None:
    place = tempfile.mkdtemp(dir="/var/tmp")
    os.chmod(place, 0o755)  # noqa: S103  # root of a user namespace has to get to its bundle
    make_image(f"{place}/l", "n", *LAYERS)
    maps = Maps([Map(0, 300000, 1000)], [Map(0, 400000, 1000)])
    for name in ("overlay", "fuse-overlayfs"):
        for chosen in (None, maps):
            check(place, name, chosen)
    driver, reason = drivers.choose("auto", "/dev/shm", "/dev/shm", maps)
    assert driver.name == "fuse-overlayfs", driver.name  # its tmpfs maps no ids before Linux 6.3
    assert "cannot map ids: Invalid argument" in reason, reason
    print("ok")


def check(place: str, name: str, maps: Maps | None) -> None:
    driver, _ = drivers.choose(name, place, place, maps)
    source = open_source(Location("oci", f"{place}/l"))
    overrides = Overrides(args=["/bin/sh", "-c", SCRIPT])
    made = f"{place}/b"
    with Snapshots(f"{place}/s", driver) as snapshots:
        bundle.make(source, source.find("n"), made, overrides, snapshots=snapshots, maps=maps)
    source.close()
    owner = os.stat(f"{made}/rootfs/data/seed")
    assert (owner.st_uid, owner.st_gid) == ((300033, 400000) if maps else (33, 0)), owner
    words = [sys.executable, "-m", "ocirt", "--root", f"{place}/state", "run", "--bundle", made, "c"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lines = done.stdout.splitlines()
    assert [lines[0], *(" ".join(line.split()[2:4]) for line in lines[1:])] == TOLD, done.stdout
    with bundle.changes(made) as (changes, _, _):
        assert ("A", b"new") in [change[:2] for change in changes]
    bundle.unmount(made)
    bundle.mount(made)
    assert os.path.exists(f"{made}/rootfs/new")
    bundle.remove(made)
    assert place not in open("/proc/self/mountinfo").read()  # noqa: SIM115


main()
