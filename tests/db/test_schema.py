"""Declared tables."""

from __future__ import annotations

import pytest

from opensipspy.db import Column, Index, Table, as_float, as_int, as_text


def test_an_index_names_columns_of_its_table():
    with pytest.raises(ValueError, match="index by_name"):
        Table("t", 1, (Column("id", "int"),), (Index("by_name", ("name",)),))


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="unknown type"):
        Column("id", "integer")


def test_values_of_rows_are_read_whatever_they_are():
    assert [as_text(v) for v in (None, 5, "a", b"\xff")] == ["", "5", "a", "\udcff"]
    assert [as_int(v) for v in (5, "6", 7.9)] == [5, 6, 7]
    assert as_float("0.5") == 0.5
    for bad in (None, "x", b"1", float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"."):
            as_int(bad)
        with pytest.raises(ValueError, match=r"."):
            as_float(bad)
