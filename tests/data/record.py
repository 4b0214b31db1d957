"""Records the config.json and exec process files that engines hand to their OCI runtime.

    sudo python -m tests.data.record [DIRECTORY]

Each case runs an engine in an EngineHost with a recording wrapper in front of runc (crun for
podman). What cannot run on this machine is recorded all the same: the file is copied first.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.engines.engines import Buildah, Containerd, Docker, Engine, Podman
from tests.engines.host import PATH, SHARE, EngineHost
from tests.engines.images import IMAGE, write_archive

# $1 of the here-document is the real runtime. PATH may be missing: every command is absolute.
WRAPPER = """#!/bin/sh
runtime={runtime}
out={out}
previous= bundle= process= detach=
for word in "$@"; do
    case $previous in
        --bundle|-b) bundle=$word ;;
        --process|-p) process=$word ;;
    esac
    case $word in
        --bundle=*) bundle=${{word#*=}} ;;
        create|run) verb=create ;;
    esac
    previous=$word
done
stamp=$(/bin/date +%s%N)
[ "$verb" = create ] && /bin/cp "${{bundle:-.}}/config.json" $out/$stamp.config 2>/dev/null
[ -n "$process" ] && /bin/cp "$process" $out/$stamp.process
exec $runtime "$@"
"""

P = ("run", "--rm")
LIMITS = (
    "--memory",
    "64m",
    "--memory-reservation",
    "32m",
    "--cpus",
    "0.5",
    "--cpu-shares",
    "512",
    "--pids-limit",
    "50",
)
PODMAN: dict[str, tuple[object, ...]] = {
    "plain": (*P, IMAGE, "true"),
    "limits": (*P, *LIMITS, "--cpuset-cpus", "0", "--oom-score-adj", "100", IMAGE, "true"),
    "memory-swap": (
        *P,
        "--memory",
        "64m",
        "--memory-swap",
        "128m",
        "--memory-swappiness",
        "10",
        IMAGE,
        "true",
    ),
    "blkio": (*P, "--device-read-bps", "/dev/vda:1mb", "--device-write-iops", "/dev/vda:100", IMAGE, "true"),
    "volumes": (
        *(
            *P,
            "-v",
            f"{SHARE}/a:/a",
            "-v",
            f"{SHARE}/b:/b:ro",
            "-v",
            f"{SHARE}/a:/c:rshared,nosuid,nodev,noexec",
        ),
        *(
            "-v",
            "named:/named",
            "-v",
            "/anonymous",
            "--mount",
            f"type=bind,src={SHARE}/b,dst=/d,bind-propagation=rslave",
        ),
        *("--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700", IMAGE, "true"),
    ),
    "volume-file": (*P, "-v", f"{SHARE}/file:/etc/file:ro", IMAGE, "true"),
    "tmpfs": (*P, "--tmpfs", "/scratch:rw,size=1m,mode=1770,noexec", "--shm-size", "1m", IMAGE, "true"),
    "privileged": (*P, "--privileged", IMAGE, "true"),
    "read-only": (*P, "--read-only", IMAGE, "true"),
    "read-only-no-tmpfs": (*P, "--read-only", "--read-only-tmpfs=false", IMAGE, "true"),
    "uidmap": (*P, "--uidmap", "0:1000:5000", "--gidmap", "0:2000:5000", IMAGE, "true"),
    "userns-auto": (*P, "--userns", "auto:size=4096", IMAGE, "true"),
    "network-none": (*P, "--network", "none", IMAGE, "true"),
    "network-host": (*P, "--network", "host", IMAGE, "true"),
    "publish": (
        *P,
        "-p",
        "127.0.0.1:18080:80",
        "--dns",
        "192.0.2.1",
        "--add-host",
        "other:192.0.2.2",
        IMAGE,
        "true",
    ),
    "device": (
        *P,
        "--device",
        "/dev/net/tun:/dev/tun:rw",
        "--device-cgroup-rule",
        "c 42:* rwm",
        IMAGE,
        "true",
    ),
    "caps": (*P, "--cap-add", "NET_ADMIN,SYS_PTRACE", "--cap-drop", "CHOWN,SETUID", IMAGE, "true"),
    "cap-drop-all": (*P, "--cap-drop", "all", "--security-opt", "no-new-privileges", IMAGE, "true"),
    "seccomp-unconfined": (*P, "--security-opt", "seccomp=unconfined", IMAGE, "true"),
    "unmask": (*P, "--security-opt", "unmask=ALL", IMAGE, "true"),
    "mask": (*P, "--security-opt", "mask=/proc/version:/etc/group", IMAGE, "true"),
    "init": (*P, "--init", "--init-path", "/usr/bin/tini-static", IMAGE, "true"),
    "hostname": (*P, "--hostname", "named.example", "--env", "KEY=value", "--label", "a=b", IMAGE, "true"),
    "sysctl": (
        *P,
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=0",
        "--sysctl",
        "kernel.msgmax=65536",
        IMAGE,
        "true",
    ),
    "ulimit": (
        *P,
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--ulimit",
        "memlock=65536",
        IMAGE,
        "true",
    ),
    "user": (
        *P,
        "--user",
        "user:extra",
        "--group-add",
        "2001",
        "--workdir",
        "/tmp",
        "--umask",
        "0077",
        IMAGE,
        "true",
    ),
    "ipc-pid-uts-host": (*P, "--ipc", "host", "--pid", "host", "--uts", "host", IMAGE, "true"),
    "pid-uts-host": (*P, "--pid", "host", "--uts", "host", IMAGE, "true"),
    "cgroupns-host": (*P, "--cgroupns", "host", IMAGE, "true"),
    "cgroupns-private": (*P, "--cgroupns", "private", IMAGE, "true"),
    "cgroups-disabled": (*P, "--cgroups", "disabled", IMAGE, "true"),
    "cgroup-parent": (*P, "--cgroup-parent", "/octest-parent", IMAGE, "true"),
    "systemd": (*P, "--systemd", "always", IMAGE, "true"),
    "healthcheck-timezone": (*P, "--tz", "UTC", "--health-cmd", "none", IMAGE, "true"),
    "annotation": (
        *P,
        "--annotation",
        "org.example.key=value",
        "--annotation",
        "run.oci.keep_original_groups=1",
        IMAGE,
        "true",
    ),
    "overlay-volume": (*P, "-v", f"{SHARE}/a:/a:O", IMAGE, "true"),
    "rootfs": (*P, "--rootfs", f"{SHARE}/rootfs", "true"),
    "chown-volume": (*P, "--user", "user", "-v", "fresh:/home/user:U", IMAGE, "true"),
    "secret": (*P, "--secret", "word", IMAGE, "true"),
    "hooks": ("--hooks-dir", SHARE / "hooks.d", *P, IMAGE, "true"),
}
ROOTLESS = (
    "plain volumes tmpfs read-only network-none network-host privileged user ulimit device caps publish "
    "init sysctl uidmap pid-uts-host limits"
)
D = ("run", "--rm")
DOCKER: dict[str, tuple[object, ...]] = {
    "plain": (*D, IMAGE, "true"),
    "limits": (
        *(*D, *LIMITS, "--cpuset-cpus", "0", "--memory-swap", "128m", "--kernel-memory", "50m"),
        IMAGE,
        "true",
    ),
    "blkio": (
        *D,
        "--blkio-weight",
        "300",
        "--device-read-bps",
        "/dev/vda:1mb",
        "--device-write-iops",
        "/dev/vda:9",
        IMAGE,
        "true",
    ),
    "privileged": (*D, "--privileged", IMAGE, "true"),
    "volumes": (
        *(
            *D,
            "-v",
            f"{SHARE}/a:/a",
            "-v",
            f"{SHARE}/b:/b:ro",
            "-v",
            f"{SHARE}/a:/c:rslave",
            "-v",
            "named:/named",
        ),
        *(
            "-v",
            "/anonymous",
            "--mount",
            f"type=bind,src={SHARE}/b,dst=/d,readonly,bind-propagation=rprivate",
        ),
        *("--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700", IMAGE, "true"),
    ),
    "tmpfs": (*D, "--tmpfs", "/scratch:rw,size=1m,mode=1770", "--shm-size", "1m", IMAGE, "true"),
    "read-only": (*D, "--read-only", IMAGE, "true"),
    "network-none": (*D, "--network", "none", IMAGE, "true"),
    "network-host": (*D, "--network", "host", IMAGE, "true"),
    "publish": (*D, "-p", "18081:80", "--dns", "192.0.2.1", "--add-host", "other:192.0.2.2", IMAGE, "true"),
    "ipc-pid-container": (
        *D,
        "--ipc",
        "container:base",
        "--pid",
        "container:base",
        "--network",
        "container:base",
        IMAGE,
        "true",
    ),
    "ipc-pid-uts-host": (*D, "--ipc", "host", "--pid", "host", "--uts", "host", IMAGE, "true"),
    "ipc-none": (*D, "--ipc", "none", IMAGE, "true"),
    "cgroupns-host": (*D, "--cgroupns", "host", IMAGE, "true"),
    "cgroupns-private": (*D, "--cgroupns", "private", IMAGE, "true"),
    "caps": (
        *D,
        "--cap-add",
        "NET_ADMIN",
        "--cap-drop",
        "CHOWN",
        "--security-opt",
        "no-new-privileges",
        IMAGE,
        "true",
    ),
    "seccomp-unconfined": (
        *D,
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "systempaths=unconfined",
        IMAGE,
        "true",
    ),
    "device": (
        *D,
        "--device",
        "/dev/net/tun:/dev/tun:rw",
        "--device-cgroup-rule",
        "c 42:* rwm",
        IMAGE,
        "true",
    ),
    "init": (*D, "--init", IMAGE, "true"),
    "user": (
        *D,
        "--user",
        "user:extra",
        "--group-add",
        "2001",
        "--workdir",
        "/tmp",
        "--hostname",
        "named",
        IMAGE,
        "true",
    ),
    "sysctl": (
        *D,
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=0",
        "--sysctl",
        "kernel.msgmax=65536",
        IMAGE,
        "true",
    ),
    "ulimit": (
        *D,
        "--ulimit",
        "nofile=100:200",
        "--oom-score-adj",
        "100",
        "--oom-kill-disable",
        "-m",
        "64m",
        IMAGE,
        "true",
    ),
}
CTR: dict[str, tuple[object, ...]] = {
    "plain": (),
    "memory-limit": ("--memory-limit", "67108864", "--cpus", "0.5"),
    "net-host": ("--net-host",),
    "privileged": ("--privileged",),
    "mount": (
        "--mount",
        f"type=bind,src={SHARE}/a,dst=/a,options=rbind:ro",
        "--env",
        "KEY=value",
        "--cwd",
        "/tmp",
    ),
    "read-only": ("--read-only",),
    "seccomp": ("--seccomp",),
    "device": ("--device", "/dev/net/tun"),
    "namespaces": (
        "--with-ns",
        "network:/run/octest-netns",
        "--cgroup",
        "/octest-ctr",
        "--cap-add",
        "CAP_NET_ADMIN",
    ),
    "uidmap": ("--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000", "--remap-labels"),
}
BUILDAH: dict[str, tuple[object, ...]] = {
    "run": (),
    "run-volume": ("-v", f"{SHARE}/a:/a", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m"),
    "run-user-caps": ("--user", "user", "--cap-add", "CAP_NET_ADMIN", "--hostname", "built"),
    "run-network-host": ("--network", "host", "--ipc", "host", "--pid", "host"),
}
CONTAINERFILE = f"FROM {IMAGE}\nRUN echo built > /built\nUSER user\nWORKDIR /home/user\nRUN id > id\n"
HOOK = {
    "version": "1.0.0",
    "hook": {"path": "/bin/true", "args": ["true", "word"], "env": ["A=b"], "timeout": 5},
    "when": {"always": True},
    "stages": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
}


class Recorder:
    """Runs cases and files what the wrapper copied under the case's name."""

    def __init__(self, host: EngineHost, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.out = host.share / "recorded"
        self.out.mkdir()
        self.out.chmod(0o777)
        for kind in ("configs", "process"):
            (directory / kind).mkdir(parents=True, exist_ok=True)
        self.wrappers = {}
        for name in ("runc", "crun"):
            wrapper = host.share / name
            real = shutil.which(name, path="/usr/sbin:/usr/bin")
            wrapper.write_text(WRAPPER.format(runtime=real, out=SHARE / "recorded"))
            wrapper.chmod(0o755)
            self.wrappers[name] = SHARE / name

    def case(self, name: str, call: Callable[[], subprocess.CompletedProcess[str]]) -> None:
        """Files the copies made during the call: NAME.json, further ones NAME-2.json, ..."""
        done = call()
        if done.returncode:
            print(f"{name}: status {done.returncode}: {done.stderr.strip()[-200:]}")
        for kind, suffix in (("configs", "config"), ("process", "process")):
            for number, path in enumerate(sorted(self.out.glob(f"*.{suffix}")), 1):
                ending = f"-{number}" if number > 1 else ""
                document = scrub(json.loads(path.read_text()))
                text = json.dumps(document, indent=1) + "\n"
                (self.directory / kind / f"{name}{ending}.json").write_text(text)
                path.unlink()

    def forget(self) -> None:
        for path in self.out.iterdir():
            path.unlink()


def scrub(document: object) -> object:
    """The same document with ids and pids of this run replaced by stable ones of the same length."""
    text = json.dumps(document)
    seen: dict[str, str] = {}

    def stable(match: re.Match[str]) -> str:
        word = match.group()
        return seen.setdefault(word, f"{len(seen) + 1:x}".rjust(len(word), "a"))

    text = re.sub(r"\b[0-9a-f]{64}\b", stable, text)
    text = re.sub(r"/overlay/l/[A-Z0-9]{26}", "/overlay/l/" + "A" * 26, text)
    text = re.sub(r"/overlay2/l/[A-Z0-9]{26}", "/overlay2/l/" + "A" * 26, text)
    text = re.sub(r"/proc/\d+/", "/proc/4242/", text)
    text = re.sub(r"buildah(-buildah)?\d{6,}", lambda m: f"buildah{m.group(1) or ''}1234567890", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)", "2026-01-01T00:00:00Z", text)
    text = re.sub(r"netns-[0-9a-f-]{36}", "netns-" + "a" * 36, text)
    text = re.sub(r"/userdata/overlay/\d+/", "/userdata/overlay/1234567890/", text)
    text = re.sub(r"/buildkit/[a-z0-9]{25}", "/buildkit/" + "a" * 25, text)
    for word in seen:
        text = re.sub(rf"(?<=[\"=]){word[:12]}(?=\")", seen[word][:12], text)
    return json.loads(text)


def record_spec(recorder: Recorder) -> None:
    for name, words in {
        "runc-spec": ("/usr/sbin/runc", "spec"),
        "runc-spec-rootless": ("/usr/sbin/runc", "spec", "--rootless"),
        "crun-spec": ("/usr/bin/crun", "spec"),
        "crun-spec-rootless": ("/usr/bin/crun", "spec", "--rootless"),
    }.items():
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(words, cwd=directory, check=True)
            shutil.copy(f"{directory}/config.json", recorder.directory / "configs" / f"{name}.json")


def on_terminal(engine: Engine, *words: object) -> Callable[[], subprocess.CompletedProcess[str]]:
    def call() -> subprocess.CompletedProcess[str]:
        terminal = engine.terminal(*words)
        status = terminal.wait()
        terminal.close()
        return subprocess.CompletedProcess([], status, terminal.seen, terminal.seen)

    return call


def plain(
    engine: Engine, *words: object, **options: object
) -> Callable[[], subprocess.CompletedProcess[str]]:
    return lambda: engine(*words, check=False, **options)


def record_podman(recorder: Recorder, rootless: bool) -> None:
    name = "podman-rootless" if rootless else "podman"
    engine = Podman(recorder.host, recorder.wrappers["crun"], rootless)
    engine.start()
    engine("secret", "create", "word", SHARE / "file")
    for case, words in PODMAN.items():
        if not rootless or case in ROOTLESS.split():
            recorder.case(f"{name}-{case}", plain(engine, *words))
    recorder.case(f"{name}-it", on_terminal(engine, *P, "-it", IMAGE, "true"))
    recorder.case(f"{name}-pod", plain(engine, "run", "-d", "--pod", "new:together", IMAGE, "sleep", "100"))
    recorder.case(f"{name}-pod-second", plain(engine, "run", "--rm", "--pod", "together", IMAGE, "true"))
    if rootless:
        recorder.case(f"{name}-keep-id", plain(engine, *P, "--userns", "keep-id", IMAGE, "true"))
    engine("run", "-d", "--name", "base", IMAGE, "sleep", "100")
    recorder.forget()
    shared = [f"--{namespace}=container:base" for namespace in ("ipc", "pid", "net")]
    recorder.case(f"{name}-share-ns", plain(engine, *P, *shared, IMAGE, "true"))
    record_exec(recorder, engine, name)
    engine.stop()


def record_exec(recorder: Recorder, engine: Engine, name: str) -> None:
    recorder.case(f"{name}-exec", plain(engine, "exec", "base", "true"))
    recorder.case(f"{name}-exec-it", on_terminal(engine, "exec", "-it", "base", "true"))
    options = ("--user", "user", "--env", "KEY=value", "--workdir", "/tmp")
    recorder.case(f"{name}-exec-user", plain(engine, "exec", *options, "base", "true"))
    recorder.case(f"{name}-exec-privileged", plain(engine, "exec", "--privileged", "base", "true"))


def record_docker(recorder: Recorder) -> None:
    engine = Docker(recorder.host, recorder.wrappers["runc"])
    engine.path = f"{SHARE}:{PATH}"  # BuildKit takes the first runc
    engine.start()
    engine("run", "-d", "--name", "base", "--ipc", "shareable", IMAGE, "sleep", "100")
    recorder.forget()
    for case, words in DOCKER.items():
        recorder.case(f"docker-{case}", plain(engine, *words))
    recorder.case("docker-it", on_terminal(engine, *D, "-it", IMAGE, "true"))
    record_exec(recorder, engine, "docker")
    build = recorder.host.share / "build"
    recorder.case(
        "docker-build",
        plain(engine, "build", "-t", "built", SHARE / build.name, env={"DOCKER_BUILDKIT": "0"}),
    )
    recorder.case(
        "docker-buildkit",
        plain(engine, "build", "--no-cache", "-t", "built", SHARE / build.name, env={"DOCKER_BUILDKIT": "1"}),
    )
    engine.stop()


def record_docker_remapped(recorder: Recorder) -> None:
    engine = Docker(recorder.host, recorder.wrappers["runc"])
    engine.settings = {"userns-remap": "root"}
    engine.start()
    recorder.case("docker-userns-remap", plain(engine, *D, IMAGE, "true"))
    engine.stop()


def record_ctr(recorder: Recorder) -> None:
    engine = Containerd(recorder.host, recorder.wrappers["runc"])
    engine.start()
    recorder.host.run("touch", "/run/octest-netns")
    recorder.host.run("unshare", "--net=/run/octest-netns", "true")
    for case, options in CTR.items():
        words = engine.run_words("--rm", *options)
        recorder.case(f"ctr-{case}", plain(engine, *words, f"c-{case}", "/bin/true"))
    recorder.case("ctr-tty", on_terminal(engine, *engine.run_words("--rm", "--tty"), "c-tty", "/bin/true"))
    engine(*engine.run_words("--detach"), "base", "/bin/sleep", "100")
    recorder.forget()
    recorder.case("ctr-exec", plain(engine, "task", "exec", "--exec-id", "e1", "base", "/bin/true"))
    words = ("task", "exec", "--exec-id", "e2", "--tty", "--cwd", "/tmp", "base", "/bin/true")
    recorder.case("ctr-exec-tty", on_terminal(engine, *words))
    engine.stop()


def record_buildah(recorder: Recorder) -> None:
    engine = Buildah(recorder.host, recorder.wrappers["runc"])
    engine("from", "--name", "work", IMAGE)
    for case, options in BUILDAH.items():
        recorder.case(f"buildah-{case}", lambda o=options: engine.run("work", "true", options=o, check=False))  # type: ignore[misc]
    words = ("run", "--runtime", engine.runtime, "--terminal", "work", "--", "true")
    recorder.case("buildah-run-terminal", on_terminal(engine, *words))
    recorder.case(
        "buildah-bud", plain(engine, "bud", "--runtime", engine.runtime, "-t", "built", SHARE / "build")
    )
    engine.stop()


def prepare(share: Path) -> None:
    write_archive(share / "image.tar")
    for name in ("a", "b", "build", "hooks.d", "rootfs"):
        (share / name).mkdir()
    (share / "file").write_text("content\n")
    (share / "build/Dockerfile").write_text(CONTAINERFILE)
    hook = {**HOOK, "hook": {**HOOK["hook"]}}  # type: ignore[dict-item]
    (share / "hooks.d/hook.json").write_text(json.dumps(hook))
    for name in ("bin", "proc", "sys", "dev"):
        (share / "rootfs" / name).mkdir()
    shutil.copy("/bin/busybox", share / "rootfs/bin/true")


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with tempfile.TemporaryDirectory(prefix="octest-record-") as scratch, contextlib.ExitStack() as stack:
        host = EngineHost(Path(scratch) / "host")
        stack.callback(host.stop)
        host.start()
        prepare(host.share)
        recorder = Recorder(host, directory)
        record_spec(recorder)
        record_podman(recorder, rootless=False)
        record_buildah(recorder)
        record_podman(recorder, rootless=True)
        record_docker(recorder)
        record_docker_remapped(recorder)
        record_ctr(recorder)


if __name__ == "__main__":
    main()
