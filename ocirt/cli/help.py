"""Help texts; loaded when somebody asks or has mistyped."""

from __future__ import annotations

from ocirt.cli import GLOBAL, HELP, VERBS
from ocirt.cli.output import out
from ocirt.cli.parse import BOOL

PROGRAM = "ocirt - an OCI container runtime"
ABOUT = """\
ocirt runs containers that are described by a bundle: a directory with a config.json
(Open Container Initiative, runtime-spec) and a root file system. It takes runc's command
line and is meant to be called by podman, docker, containerd and by people:

    ocirt spec --bundle BUNDLE
    ocirt plan --bundle BUNDLE
    ocirt run --bundle BUNDLE ID"""

ID = "ID is the container's name: letters, digits, _, +, - and the dot."
BUNDLE = "The bundle holds config.json and the root file system; default is the current directory."
EXEC = """\
Options stand before ID: what follows it belongs to the command. Without --detach the status
is the command's, or 255 when it could not be run."""

PLAN = f"""\
PATH, which has a slash in it, is the bundle, as --bundle.
{BUNDLE}
No privilege is needed and nothing is opened or changed."""

PS = """\
A table is the output of the host's `ps -ef`, or of ps with the options given, as far as it is
about the container. The process ids are those of the host."""

UPDATE = """\
What is not named stays as it is, and so does all if one of the new limits is refused. Sizes are
bytes or have a unit: 512k, 64M, 1.5G. -1 is no limit."""

WAIT = """\
128 + N is printed after signal N. Where the kernel tells the status only to the parent (before
Linux 6.15), and for a container that has ended before, nothing is printed."""

# verb: (what it does, words after the options, more)
COMMANDS = {
    "create": ("create a container; its program waits for start", "ID", f"{ID}\n{BUNDLE}"),
    "delete": (
        "delete what is left of a container",
        "ID",
        "A running container is deleted with --force only.",
    ),
    "doctor": (
        "show what this host offers, what is missing for what, and how to mend it",
        "",
        "Nothing is changed. The status is 1 when no container can run.",
    ),
    "events": (
        "show what a container uses, and when it runs out of memory, as JSON",
        "ID",
        "One line for each event, until the container ends.",
    ),
    "exec": (
        "run another process in a container",
        "ID COMMAND [ARGUMENT...]  or  -p process.json ID",
        EXEC,
    ),
    "features": ("show what this build can do, as JSON", "", "The features document of runtime-spec."),
    "kill": (
        "send a signal to a container's init process",
        "ID [SIGNAL]",
        "SIGNAL is a name, with or without SIG, or a number; default TERM.",
    ),
    "list": ("list the containers below the state root", "", ""),
    "pause": (
        "stop all processes of a container",
        "ID",
        "`resume` lets them go on. A signal waits as long, but for KILL.",
    ),
    "plan": (
        "show what create would do, without doing it",
        "[ID | PATH]",
        PLAN,
    ),
    "ps": (
        "show the processes of a container",
        "ID [OPTION OF ps(1)...]",
        PS,
    ),
    "resume": ("let the processes of a paused container go on", "ID", ID),
    "run": ("create and start a container, wait for it and delete it", "ID", f"{ID}\n{BUNDLE}"),
    "spec": ("write a config.json to begin with", "", "An existing file is not overwritten."),
    "start": ("let the program of a created container run", "ID", ID),
    "state": ("show a container's state, as JSON", "ID", ID),
    "update": ("change the limits of a container that runs", "ID", UPDATE),
    "verify": (
        "compare what config.json asks for with what the kernel has in force",
        "ID  or  --pid PID --config FILE",
        "Also for containers of other runtimes. The status is 1 when something differs.",
    ),
    "wait": ("wait until a container has ended, and print its exit status", "ID", WAIT),
}

# option, or verb.option where it means something else: (argument, text)
TEXTS = {
    "additional-gids": ("GID", "additional group; may be given several times"),
    "all": ("", "every process of the container, not only its init"),
    "apparmor": ("PROFILE", "AppArmor profile of the process"),
    "blkio-weight": ("N", "share of the disks, 10 to 1000"),
    "bundle": ("DIR", "the bundle (default: the current directory)"),
    "cap": ("CAP", "add a capability such as CAP_NET_RAW; may be given several times"),
    "cgroup": ("[CTRL[,CTRL]:]PATH", "existing cgroup below the container's; may be given several times"),
    "cgroup-manager": ("NAME", "cgroupfs (default), systemd or disabled"),
    "check": ("", "refuse a memory limit below what is in use"),
    "config": ("FILE", "read FILE, not the bundle's config.json"),
    "console-socket": ("PATH", "unix socket that gets the master of the container's terminal"),
    "cpu-burst": ("USEC", "CPU time that may be saved up for later, beyond the quota"),
    "cpu-idle": ("0|1", "1: run only when nobody else wants to"),
    "cpu-period": ("USEC", "the time that the quota is about"),
    "cpu-quota": ("USEC", "CPU time in each period"),
    "cpu-rt-period": ("USEC", "the time that cpu-rt-runtime is about (cgroup v1)"),
    "cpu-rt-runtime": ("USEC", "time for realtime processes in each period (cgroup v1)"),
    "cpu-share": ("N", "share of the CPUs, 2 to 262144; 1024 is usual"),
    "cpuset-cpus": ("LIST", "CPUs to run on, such as 0-2,7"),
    "cpuset-mems": ("LIST", "memory nodes to use"),
    "cwd": ("DIR", "working directory inside the container"),
    "debug": ("", "tell more, with a traceback for errors"),
    "delete.force": ("", "kill the container if it runs; no error if there is none"),
    "detach": ("", "return as soon as the program runs"),
    "doctor.json": ("", "as JSON"),
    "env": ("NAME=VALUE", "set an environment variable; may be given several times"),
    "help": ("", "show this help"),
    "ignore-paused": ("", "also in a paused container: the process waits until it is resumed"),
    "interval": ("TIME", "how often, such as 5s (default), 100ms, 1m30s"),
    "keep": ("", "do not delete the container when it has ended"),
    "l3-cache-schema": ("TEXT", "share of the L3 cache (Intel RDT)"),
    "list.format": ("FORMAT", "table (default) or json"),
    "log": ("FILE", "append records to FILE; also journald:NAME, syslog:NAME"),
    "log-format": ("FORMAT", "text (default) or json"),
    "log-level": ("LEVEL", "error, warning (default), info or debug"),
    "mem-bw-schema": ("TEXT", "share of the memory bandwidth (Intel RDT)"),
    "memory": ("SIZE", "limit of memory"),
    "memory-reservation": ("SIZE", "memory to be left when others need some"),
    "memory-swap": ("SIZE", "limit of memory and swap together"),
    "no-new-keyring": ("", "keep the caller's session keyring"),
    "no-new-privs": ("", "the process can gain no privileges"),
    "no-pivot": ("", "change the root without pivot_root, for a root on an initramfs"),
    "no-subreaper": ("", "do not adopt the orphans of the container"),
    "pid": ("PID", "process to look at"),
    "pid-file": ("FILE", "write the process id to FILE"),
    "pids-limit": ("N", "limit of processes and threads"),
    "pidfd-socket": ("PATH", "unix socket that gets a pidfd of the process"),
    "plan.json": ("", "as JSON, with every step"),
    "preserve-fds": ("N", "pass on N more file descriptors, from 3 on (default: 0)"),
    "process": ("FILE", "file with the process object of config.json"),
    "process-label": ("LABEL", "SELinux label of the process"),
    "ps.format": ("FORMAT", "table (default), or json: an array of process ids"),
    "quiet": ("", "ids only"),
    "regex": ("", "ID is a regular expression: all containers that match"),
    "resources": ("FILE", "linux.resources with what is to change, as JSON; - is standard input"),
    "root": ("DIR", "where state is kept (default: /run/ocirt, or $XDG_RUNTIME_DIR/ocirt)"),
    "rootless": ("WORD", "auto (default), true or false: go on where cgroups cannot be changed"),
    "spec.rootless": ("", "for a user without privileges"),
    "stats": ("", "show what the container uses now, and end"),
    "summary": ("", "one screen: what, not how"),
    "systemd-cgroup": ("", "let systemd manage the cgroup: cgroupsPath is SLICE:PREFIX:NAME"),
    "trace": ("FILE", "write the time of every step to FILE, as Chrome trace JSON"),
    "tty": ("", "give the process a terminal"),
    "user": ("UID[:GID]", "user of the process, as numbers"),
    "verify.config": ("FILE", "config.json to compare with"),
    "verify.json": ("", "as JSON, uncut"),
    "version": ("", "show the version"),
}


def program() -> int:
    out(program_text())
    return 0


def verb(name: str) -> int:
    out(verb_text(name))
    return 0


def usage(name: str, wrong: str) -> None:
    """What is printed when the command line is wrong: how it would be right."""
    text = verb_text(name) if name in VERBS else program_text()
    out(f"Incorrect Usage: {wrong}\n\n{text}")


def program_text() -> str:
    width = max(map(len, VERBS)) + 2
    commands = "".join(f"   {name:{width}}{COMMANDS[name][0]}\n" for name in VERBS)
    return (
        f"NAME:\n   {PROGRAM}\n\n{ABOUT}\n\n"
        "USAGE:\n   ocirt [global options] command [command options] [arguments...]\n\n"
        f"COMMANDS:\n{commands}   {'help':{width}}show this, or the help of one command\n\n"
        f"OPTIONS:\n{_options('', GLOBAL)}"
    )


def verb_text(name: str) -> str:
    does, words, more = COMMANDS[name]
    table = {**__import__(f"ocirt.cli.{name}", None, None, ("",)).OPTIONS, **HELP}
    text = f"NAME:\n   ocirt {name} - {does}\n\nUSAGE:\n   ocirt {name} [options] {words}".rstrip() + "\n\n"
    if more:
        text += f"{more}\n\n"
    return f"{text}OPTIONS:\n{_options(name, table)}"


def _options(name: str, table: dict[str, int | str]) -> str:
    shorts = {long: short for short, long in table.items() if isinstance(long, str)}
    rows = []
    for option, kind in table.items():
        if isinstance(kind, str):
            continue
        argument, text = TEXTS.get(f"{name}.{option}") or TEXTS[option]
        value = "" if kind == BOOL else f" {argument}"
        left = f"--{option}{value}"
        if option in shorts:
            left += f", -{shorts[option]}{value}"
        rows.append((left, text))
    width = max(len(left) for left, _ in rows) + 2
    return "".join(f"   {left:{width}}{text}\n" for left, text in rows)
