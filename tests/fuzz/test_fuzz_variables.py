"""A bounded run of the fuzz target, the same texts each time."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzz_variables import run


@pytest.mark.parametrize("seed", [1, 2])
def test_random_variables_raise_nothing_but_their_errors(seed: int) -> None:
    assert run(seed, iterations=3000) == 3000
