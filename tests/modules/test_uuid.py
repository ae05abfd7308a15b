"""uuid: identifiers of RFC 9562."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest

from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.uuid import Uuid
from opensipspy.script.run import Run

DNS = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def made() -> tuple[FakeCore, Run]:
    core = FakeCore()
    core.add(Uuid())
    return core, make_run(request(), core=core)


@pytest.mark.parametrize(("version", "shown"), [(0, 4), (1, 1), (4, 4), (7, 7)])
def test_a_new_identifier_has_its_version(version: int, shown: int) -> None:
    """RFC 9562 §4.1, §4.2: variant and version stand in their bits."""
    core, run = made()
    assert core.call("uuid", run, make_var("u"), version) == 1
    first = UUID(str(run.vars["u"]))
    assert (first.variant, first.version) == (RFC_4122, shown)
    core.call("uuid", run, make_var("u"), version)
    assert UUID(str(run.vars["u"])) != first
    assert UUID(str(core.read("$uuid", run, str(version)))).version == shown


def test_version_7_begins_with_the_time() -> None:
    """RFC 9562 §5.7: the first 48 bits are milliseconds since 1970."""
    core, run = made()
    core.wall = 1234.567
    core.call("uuid", run, make_var("u"), 7)
    assert UUID(str(run.vars["u"])).int >> 80 == 1234567


@pytest.mark.parametrize(
    ("version", "expected"),
    [(3, "5df41881-3aed-3515-88a7-2f4a814cf09e"), (5, "2ed6657d-e927-568b-95e1-2665a8aea6a2")],
)
def test_a_name_gives_always_the_same(version: int, expected: str) -> None:
    """RFC 9562 Appendix A.2 and A.4: www.example.com in the name space of DNS."""
    core, run = made()
    assert core.call("uuid", run, make_var("u"), version, DNS, "www.example.com") == 1
    assert run.vars["u"] == expected


@pytest.mark.parametrize("arguments", [(2,), (6,), (99,), (3,), (3, DNS), (5, None, "name"), (5, "not a uuid", "name")])
def test_what_cannot_be_made_is_refused(arguments: tuple[object, ...]) -> None:
    core, run = made()
    assert core.call("uuid", run, make_var("u"), *arguments) == -1
    assert "u" not in run.vars


def test_the_variable_without_a_version() -> None:
    core, run = made()
    assert UUID(str(core.read("$uuid", run))).version == 4
    with pytest.raises(ValueError, match="version"):
        core.read("$uuid", run, "3")
