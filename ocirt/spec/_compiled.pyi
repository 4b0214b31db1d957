from typing import Any

DOCUMENTS: dict[str, tuple[Any, ...]]
SCHEMAS: str

def check(value: Any, node: tuple[Any, ...]) -> bool: ...
def text(value: str) -> bool: ...
