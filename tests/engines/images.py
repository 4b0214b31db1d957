"""A small image made of Debian's static busybox, as one archive that every engine loads.

The archive is an OCI layout and a `docker save` archive at once: the same blobs, two indexes.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

NAME = "localhost/octest"
TAG = "latest"
IMAGE = f"{NAME}:{TAG}"
PAUSE = f"{NAME}-pause:{TAG}"  # the same files; its command waits: for podman's pods
BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "sh ash cat chmod chown cp cut date dd df dmesg echo env expr false free grep head hostname httpd id "
    "ifconfig ip kill ln ls mkdir mknod mount nc nproc nslookup od ping ps pwd readlink rm route sed seq "
    "sleep sort stat stty sync sysctl tail tee test top touch tr trap true tty ulimit umount uname wc "
    "wget which whoami xargs"
)
DIRECTORIES = "bin dev etc home home/user proc root run sys tmp var www"
# Shell words that print the page of a server in the same network namespace, once it answers.
FETCH = "i=0; until wget -qO- http://127.0.0.1:8080/index.html || [ $i = 50 ]; do i=$((i+1)); sleep 0.1; done"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
OCI = "application/vnd.oci.image"


def write_archive(path: Path) -> None:
    """The image at path, with /bin/notexec (mode 644), a user and /www/index.html in it."""
    layer = _layer()
    blobs = [layer]
    manifests: list[dict[str, object]] = []
    docker = []
    for image, command in ((IMAGE, "/bin/sh"), (PAUSE, "/bin/pause")):
        config = _json(
            {
                "architecture": ARCHITECTURE,
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": [command]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
                "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "busybox"}],
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.manifest.v1+json",
                "config": _descriptor(f"{OCI}.config.v1+json", config),
                "layers": [_descriptor(f"{OCI}.layer.v1.tar", layer)],
            }
        )
        blobs += [config, manifest]
        names = {"org.opencontainers.image.ref.name": image, "io.containerd.image.name": image}
        manifests.append(
            {
                **_descriptor(f"{OCI}.manifest.v1+json", manifest),
                "platform": {"architecture": ARCHITECTURE, "os": "linux"},
                "annotations": names,
            }
        )
        docker.append({"Config": _blob(config), "RepoTags": [image], "Layers": [_blob(layer)]})
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": manifests}))
        _add(archive, "manifest.json", _json(docker))
        for data in blobs:
            _add(archive, _blob(data), data)


def _layer() -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as layer:
        for name in DIRECTORIES.split():
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if name == "tmp" else 0o755
            if name == "home/user":
                entry.uid = entry.gid = 1000
            layer.addfile(entry)
        _add(layer, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in APPLETS.split():
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type = tarfile.SYMTYPE
            entry.linkname = "busybox"
            layer.addfile(entry)
        _add(layer, "bin/notexec", b"#!/bin/sh\necho ran\n", 0o644)
        _add(layer, "bin/pause", b"#!/bin/sh\nexec sleep 100000\n", 0o755)
        _add(layer, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        _add(layer, "etc/group", b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
        _add(layer, "www/index.html", b"served from the container\n")
    return output.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = mode
    archive.addfile(entry, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}
