"""Subordinate ids, as subuid(5) has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_image.userns import ranges


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("root:100:5\n", [(100, 5)]),
        ("0:100:5\nroot:200:6\nother:1:1\n", [(100, 5), (200, 6)]),
        ("root:100:0\nroot:x:5\nroot:1\n#root:1:1\nroot:-1:5\n", []),
        ("root:4294967290:6\nroot:4294967290:7\n", [(4294967290, 6)]),
        ("rooty:1:1\n", []),
    ],
)
def test_lines_of_the_user_are_read_and_others_passed_over(
    tmp_path: Path, text: str, found: list[tuple[int, int]]
) -> None:
    (tmp_path / "subuid").write_text(text)
    assert ranges(str(tmp_path / "subuid"), 0) == found


def test_a_file_that_is_not_there_gives_nothing(tmp_path: Path) -> None:
    assert ranges(str(tmp_path / "subuid"), 0) == []
