"""A bounded run of the fuzz target, the same messages each time."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzz_message import run


@pytest.mark.parametrize("seed", [4475, 3261])
def test_mutated_messages_raise_nothing_but_parse_errors(seed: int) -> None:
    assert run(seed, iterations=1500) == 1500
