"""What a parameter of a script function asks of its argument."""

from __future__ import annotations

import pytest

from opensipspy.module import between

STATUS = between(100, 699, "status of a reply")


@pytest.mark.parametrize(("given", "number"), [(100, 100), (699, 699), ("404", 404)])
def test_a_number_of_the_range_is_taken(given: object, number: int) -> None:
    """A variable may hold it as a text."""
    assert callable(STATUS.function)
    assert STATUS.function(given) == number


@pytest.mark.parametrize("given", [99, 700, -1, "99", "many", "", None])
def test_any_other_is_refused_in_words_for_the_author(given: object) -> None:
    assert callable(STATUS.function)
    with pytest.raises(ValueError, match=r"is no status of a reply \(100 to 699\)"):
        STATUS.function(given)
