"""hooks: those of the runtime's namespaces are run here, those inside become ops of the init."""

from __future__ import annotations

from ocirt import kernel
from ocirt.errors import HookFailed, SpecError
from ocirt.spec.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

LONGEST = 2**31 // 1000  # seconds; poll(2) takes milliseconds as an int
PID_ROOM = '"pid":' + " " * 10  # the init writes the pid that the container sees over the blanks


def apply_runtime_hooks(ctx: Context, hooks: dict[str, Any]) -> None:
    """prestart and createRuntime: by the parent, with mounts made and the root not yet changed."""
    for kind in ("prestart", "createRuntime"):
        if hooks.get(kind):
            text = f"run {len(hooks[kind])} {kind} hook(s)"
            ctx.plan.at("HOOKS", f"hooks.{kind}", text, _runner(kind, hooks[kind]))


def _runner(kind: str, entries: list[dict[str, Any]]) -> Any:
    def call(launch: Any) -> None:
        run_hooks(kind, entries, launch.state_for_hooks("creating"), init=launch.pidfd)

    return call


def apply_create_container_hooks(ctx: Context, entries: list[dict[str, Any]]) -> None:
    _inside(ctx, "createContainer", entries, "creating")


def apply_wait_start(ctx: Context, _process: Any) -> None:
    """A created container waits in accept(2); run goes straight on."""
    if ctx.start_socket is not None:
        ctx.plan.add("wait_start", "process", ctx.start_socket)


def apply_start_container_hooks(ctx: Context, entries: list[dict[str, Any]]) -> None:
    """Programs of the image: what the engine keeps in the runtime's environment is not for them."""
    env = [kernel.fsencode(word) for word in (ctx.spec.get("process") or {}).get("env") or []]
    _inside(ctx, "startContainer", entries, "created", env)


def _inside(
    ctx: Context, kind: str, entries: list[dict[str, Any]], status: str, default: list[bytes] | None = None
) -> None:
    """default: the environment of a hook that has no env; None for the runtime's."""
    state = hook_state(ctx.spec, ctx.id, ctx.bundle, status, 0)
    del state["pid"]
    blob = ("{" + PID_ROOM + "," + dumps(state)[1:]).encode("utf-8", "surrogateescape")
    for i, hook in enumerate(entries):
        field = f"hooks.{kind}[{i}]"
        path, argv, env, timeout = prepare(field, hook)
        words = [kernel.fsencode(word) for word in argv]
        variables = [name + b"=" + value for name, value in env.items()]
        if default is not None and hook.get("env") is None:
            variables = default
        limit = 0 if timeout is None else int(timeout * 1000)
        ctx.plan.add("hook", field, kernel.fsencode(path), words, variables, blob, limit, detail=path)


def hook_state(spec: dict[str, Any], container_id: str, bundle: str, status: str, pid: int) -> dict[str, Any]:
    """The state document that hooks read on stdin (runtime.md, State)."""
    return {
        "ociVersion": spec["ociVersion"],
        "id": container_id,
        "status": status,
        "pid": pid,
        "bundle": bundle,
        "annotations": spec.get("annotations") or {},
    }


def prepare(field: str, hook: dict[str, Any]) -> tuple[str, list[str], dict[bytes, bytes], float | None]:
    """Path, argv, environment and timeout in seconds of one hook.

    Without env a hook of the host's inherits the runtime's environment, as with runc.
    """
    path = hook["path"]
    if not path.startswith("/"):
        raise SpecError(f"{field}.path", f"{path!r} is not absolute", "config.md, POSIX-platform Hooks")
    env = kernel.environ()
    if hook.get("env") is not None:
        env = {}
        for word in hook["env"]:
            name, _, value = kernel.fsencode(word).partition(b"=")
            env[name] = value
    timeout = hook.get("timeout")
    return path, hook.get("args") or [path], env, None if timeout is None else min(timeout, LONGEST)


def run_hooks(
    kind: str,
    entries: list[dict[str, Any]],
    state: dict[str, Any],
    *,
    only_warn: bool = False,
    init: int = -1,
) -> list[HookFailed]:
    """Run hooks in the bundle, one after the other; the first failure raises HookFailed.

    init: pidfd of a process that is waiting for them; a hook is killed when that ends.
    only_warn (poststop): go on and return the failures.
    """
    from ocirt.spawn import run

    failures = []
    text = dumps(state).encode("utf-8", "surrogateescape")
    for i, hook in enumerate(entries):
        field = f"hooks.{kind}[{i}]"
        path, argv, env, timeout = prepare(field, hook)
        try:
            # argv[0] is the config's: dockerd's hook finds its way by it.
            result = run(argv, env, text, timeout, path, str(state["bundle"]), init)
        except OSError as error:
            failure = HookFailed(field, path, (error.strerror or "").lower())
        else:
            if result.status == 0:
                continue
            failure = HookFailed(field, path, result.describe(), result.stderr, result.seconds)
        if not only_warn:
            raise failure
        failures.append(failure)
    return failures
