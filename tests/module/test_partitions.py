"""Partitions as scripts write them."""

from __future__ import annotations

import pytest

from opensipspy.module.partitions import parse_partition


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("pstn", ("pstn", {}, "")),
        ("pstn:", ("pstn", {}, "")),
        (" pstn : table_name = a ; ", ("pstn", {"table_name": "a"}, "")),
        (
            "\n\tpstn:\n\t\ttable_name = dialplan;\n\t\tdb_url = mysql://u:p@127.0.0.1/opensips",
            ("pstn", {"table_name": "dialplan", "db_url": "mysql://u:p@127.0.0.1/opensips"}, ""),
        ),
        ("x: db_url=http://h/?a=b", ("x", {"db_url": "http://h/?a=b"}, "")),
        ("default: pstn", ("default", {}, "pstn")),
    ],
)
def test_properties(text: str, parsed: tuple[str, dict[str, str], str]):
    assert parse_partition(text) == parsed


@pytest.mark.parametrize("text", ["", ":", ": table_name=a", "a: color=red", "a: table_name=", "a: b; c"])
def test_what_is_none(text: str):
    with pytest.raises(ValueError, match=r"partition|property"):
        parse_partition(text)
