"""What a machine lacks: a reason to skip for people, a failure in CI, which declares that it is there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI declares it: {what}", pytrace=False)
    pytest.skip(what)
