"""Names of older versions: each is gone, and what is said instead exists."""

from __future__ import annotations

import re

import pytest

from opensipspy.module import find_module, module_names
from opensipspy.module.describe import describe
from opensipspy.script.globals import PARAMETERS
from opensipspy.script.names import FUNCTIONS, GLOBALS, MODULES, removed_function, removed_global, removed_module
from tests.script.fakes import Bench


@pytest.fixture(scope="module")
def functions() -> set[str]:
    """Every function of the core and of the modules that are here."""
    names = set(Bench().catalogue.functions)
    for name in module_names():
        names |= {entry["name"] for entry in describe(find_module(name))["functions"]}
    return names


def test_no_name_that_exists_is_called_gone(functions: set[str]) -> None:
    assert not set(FUNCTIONS) & functions
    assert not set(GLOBALS) & set(PARAMETERS)
    assert not set(MODULES) & set(module_names())


def test_a_global_parameter_that_replaces_another_exists() -> None:
    for now in GLOBALS.values():
        name = re.match(r"(\w+)=", now)
        assert name is None or name.group(1) in PARAMETERS


def test_messages() -> None:
    assert removed_global("children") == ("OpenSIPS 4 has no global parameter children any more", "now: udp_workers=N")
    assert removed_function("is_avp_set") == (
        "OpenSIPS 4 has no function is_avp_set() any more", "now: $avp(name) != NULL",
    )  # fmt: skip
    assert removed_module("siptrace") == ("OpenSIPS 4 has no module siptrace any more", "now: tracer")
    assert removed_global("udp_workers") is None
