"""plan: what create would do for a bundle, without doing it."""

from __future__ import annotations

from ocirt import describe
from ocirt.build import build_create
from ocirt.cli.create import OPTIONS as CREATE_OPTIONS
from ocirt.cli.create import create_options
from ocirt.cli.output import out
from ocirt.cli.parse import BOOL, expect
from ocirt.errors import UsageError
from ocirt.spec.jsontext import dumps
from ocirt.state import check_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {
    **{name: CREATE_OPTIONS[name] for name in ("bundle", "b", "config", "f", "no-pivot", "no-new-keyring")},
    "json": BOOL,
    "summary": BOOL,
}
ID = "ID"  # stands for the id in cgroup and resctrl paths while there is none


def run(call: Call) -> int:
    expect("plan", call.words, 0, 1)
    container_id, bundle = subject(call.words[0] if call.words else "", call.values.get("bundle") or "")
    options = create_options(call, container_id)
    ctx, _ = build_create(bundle, container_id, options)
    if call.values.get("json"):
        out(dumps(describe.document(ctx), "  ") + "\n")
    elif call.values.get("summary"):
        out(describe.summary(ctx))
    else:
        out(describe.text(ctx))
    for warning in ctx.warnings:
        call.log.warning(warning)
    return 0


def subject(word: str, bundle: str) -> tuple[str, str]:
    """Id and bundle from the command's word, if there is one, and --bundle. No id has a slash in it."""
    if "/" in word:
        if bundle:
            raise UsageError(f'"plan" takes one bundle: {bundle} or {word}')
        return ID, word
    if word:
        check_id(word)
    return word or ID, bundle or "."
