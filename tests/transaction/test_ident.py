"""The ids of transactions and what they look like in a Via branch (RFC 3261 §17.1.3)."""

from __future__ import annotations

import pytest

from opensipspy.transaction import branch_parameter, split_branch
from opensipspy.transaction.ident import HASH_SIZE, hexadecimal


def test_numbers_are_written_in_hexadecimal() -> None:
    assert all(hexadecimal(number) == f"{number:x}" for number in range(HASH_SIZE))


@pytest.mark.parametrize("index", [0, 1, 10, 63])
def test_a_branch_tells_its_transaction(index: int) -> None:
    assert split_branch(branch_parameter("ff93.581a840f", index)) == ("ff93.581a840f", index)


@pytest.mark.parametrize(
    "branch",
    ["", "z9hG4bK", "z9hG4bK-1-2", "z9hG4bKa.b.", "z9hG4bKa.b.x", "z9hG4bKa.b.1234", "z9hG4bKa.b.\u0661", "a.b.0"],
)
def test_a_branch_in_another_form_tells_nothing(branch: str) -> None:
    assert split_branch(branch) == ("", 0)
