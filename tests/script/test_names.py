"""Names of older versions: each is gone, and what is said instead exists."""

from __future__ import annotations

import re

import pytest

from opensipspy.module import find_module, module_names
from opensipspy.module.describe import describe
from opensipspy.script.globals import PARAMETERS
from opensipspy.script.names import (
    FUNCTIONS,
    GLOBALS,
    KEYWORDS,
    MODULES,
    NOT_PROVIDED,
    VARIABLES,
    missing_parameter,
    module_not_provided,
    removed_function,
    removed_global,
    removed_keyword,
    removed_module,
    removed_parameter,
    removed_variable,
)
from opensipspy.script.names import (
    PARAMETERS as OLD_PARAMETERS,
)
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
    for now, _version in GLOBALS.values():
        name = re.match(r"(\w+)=", now)
        assert name is None or name.group(1) in PARAMETERS


def test_messages() -> None:
    assert removed_global("children") == (
        "global parameter children was removed in OpenSIPS 3.1", "now: udp_workers=N",
    )  # fmt: skip
    assert removed_function("is_avp_set") == (
        "function is_avp_set() was removed in OpenSIPS 3.5", "now: $avp(name) != NULL",
    )  # fmt: skip
    assert removed_module("siptrace") == ("module siptrace was removed in OpenSIPS 3.0", "now: tracer")
    assert removed_global("udp_workers") is None
    assert removed_variable("$Ri") == ("variable $Ri was removed in OpenSIPS 3.3", "now: $socket_in(ip)")
    assert removed_parameter("tm", "fr_timer") == (
        "tm: parameter fr_timer was removed in OpenSIPS 3.0",
        "now: fr_timeout",
    )
    assert removed_parameter("tm", "fr_timeout") is None
    assert removed_keyword("method") == ("word method was removed in OpenSIPS 2.4", "now: $rm")
    assert removed_keyword("myself") == ("word myself was removed in OpenSIPS 2.4", 'now: is_myself("$rd")')


def test_a_module_that_is_left_out_says_what_there_is_instead() -> None:
    told = module_not_provided("db_berkeley")
    assert told is not None
    assert "Berkeley DB" in told[0]
    assert "db_dump" in told[1]
    assert module_not_provided("db_sqlite") is None
    assert not set(NOT_PROVIDED) & set(module_names())


def test_no_parameter_or_variable_that_exists_is_called_gone() -> None:
    here = set(module_names())
    for module, names in OLD_PARAMETERS.items():
        if module in here:
            assert not set(names) & {entry["name"] for entry in describe(find_module(module))["params"]}
    assert not set(VARIABLES) & set(Bench().catalogue.variables)


def test_what_replaces_a_word_is_a_variable() -> None:
    variables = Bench().catalogue.variables
    for now in KEYWORDS.values():
        assert now.removeprefix("$").partition("(")[0] in variables


def test_parameters_that_need_what_is_not_here() -> None:
    """The reason is told, instead of a name that looks alike."""
    told = missing_parameter("proto_hep", "hep_port")
    assert told is not None
    assert told[0].startswith("proto_hep: parameter hep_port does not exist here yet: proto_hep sends only")
    for module, name in (("cachedb_mongodb", "compat_mode_2.4"), ("cachedb_redis", "ftsearch_max_results")):
        assert missing_parameter(module, name) is not None
    assert missing_parameter("tm", "fr_timeout") is None
