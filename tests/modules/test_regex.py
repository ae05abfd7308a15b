"""regex: expressions of Perl, groups of them from a file, substitutions."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensipspy.module import MiError, StartError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.regex import Regex
from opensipspy.script.core import build_catalogue
from opensipspy.script.run import Run
from opensipspy.server.logs import L_INFO
from opensipspy.server.services import Services
from tests.modules.asynchronous import in_loop

FILE = """### agents
[0]
# soft
^Twinkle/1
^X-Lite

[1]
^190\\.232\\.250\\.226$
"""


def made(**params: object) -> tuple[FakeCore, Regex, Run]:
    core = FakeCore()
    module = core.add(Regex(**params))
    return core, module, make_run(request(), core=core)


@pytest.mark.parametrize(
    ("text", "expression", "params", "expected"),
    [
        ("Twinkle/1.4", "(?i)^twinkle", {}, 1),
        ("Twinkle/1.4", "^twinkle", {}, -1),
        ("Twinkle/1.4", "^twinkle", {"pcre_caseless": 1}, 1),
        ("user1", "^user[1234]$", {}, 1),
        ("a\nb", "^b$", {}, -1),
        ("a\nb", "^b$", {"pcre_multiline": 1}, 1),
        ("a\nb", "a.b", {}, -1),
        ("a\nb", "a.b", {"pcre_dotall": 1}, 1),
        ("ab", "a b", {"pcre_extended": 1}, 1),
        ("+1 (2)", r"^\Q+1 (2)\E$", {}, 1),
        ("x", "(", {}, -4),
        ("x", "x" * 9000, {}, -4),
        ("a" * 60 + "!", "^(a|aa)+$", {}, -1),
    ],
)
def test_matching(text: str, expression: str, params: dict[str, int], expected: int) -> None:
    core, _, run = made(**params)
    assert core.call("pcre_match", run, text, expression) == expected


def test_the_part_that_matched() -> None:
    core, _, run = made()
    core.call("pcre_match", run, "number 4711 here", "[0-9]+", make_var("m"))
    assert run.vars["m"] == "4711"
    core.call("pcre_match", run, "none", "[0-9]+", make_var("m"))
    assert run.vars["m"] is None


@in_loop
async def test_groups_of_a_file(tmp_path: Path) -> None:
    """The manual's file: sections, comments and empty lines."""
    file = tmp_path / "groups"
    file.write_text(FILE)
    core, module, run = made(file=str(file))
    await module.start()
    assert core.call("pcre_match_group", run, "X-Lite 3") == 1
    assert core.call("pcre_match_group", run, "X-Lite 3", 1) == -1
    assert core.call("pcre_match_group", run, "190.232.250.226", 1) == 1
    assert core.call("pcre_match_group", run, "x", 2) == -4
    assert await core.mi_call("regex:match_group", ["X-Lite", "0"]) == "Match"
    file.write_text("[0]\n^new\n")
    assert await core.mi_call("regex:reload") == "OK"
    assert await core.mi_call("regex_match_group", ["new", "0"]) == "Match"
    file.write_text("[0]\n(\n")
    with pytest.raises(MiError):
        await core.mi_call("regex:reload")
    assert core.call("pcre_match_group", run, "new") == 1
    with pytest.raises(MiError, match="No such group"):
        await core.mi_call("regex:match_group", ["x", "7"])


@pytest.mark.parametrize(
    ("text", "params"),
    [("early\n", {}), ("[0]\na\n[1]\nb\n", {"max_groups": 1}), ("[0]\n" + "a" * 50, {"group_max_size": 20})],
)
@in_loop
async def test_a_faulty_file_stops_the_start(tmp_path: Path, text: str, params: dict[str, int]) -> None:
    file = tmp_path / "groups"
    file.write_text(text)
    _, module, _ = made(file=str(file), **params)
    with pytest.raises(StartError, match="line"):
        await module.start()


@in_loop
async def test_matching_over_management() -> None:
    core, _, _ = made()
    assert await core.mi_call("regex:match", {"string": "1234", "pcre_regex": "^1234$"}) == "Match"
    assert await core.mi_call("regex_match", {"string": "1234", "pcre_regex": "^1235$"}) == "Not Match"
    with pytest.raises(MiError, match="Bad expression"):
        await core.mi_call("regex:match", {"string": "1", "pcre_regex": "("})
    with pytest.raises(MiError, match="No file"):
        await core.mi_call("regex:reload")


@pytest.mark.parametrize(
    ("text", "expression", "expected"),
    [
        ("sip:+123@h", r"/\Q+123\E/123/", "sip:123@h"),
        ("aaa", "/a/b/", "baa"),
        ("aaa", "/a/b/g", "bbb"),
        ("ABC", "/(a)(b)/\\2\\1/i", "BAC"),
        ("a/b", "#/#-#", "a-b"),
        ("a/b", "/\\//-/", "a-b"),
        ("x", "/y/z/", "x"),
    ],
)
def test_substituting(text: str, expression: str, expected: str) -> None:
    _, module, run = made()
    assert module.pcre_subst(run, text, expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("/b/[\\u]/", "a[sip:bob@example.org]c"),
        ("/b/$rm-$var(x)$var(none)-/", "aINVITE-y-c"),
        ("/b/$(var(x){s.len})$/", "a1$c"),
        ("/b/\\$rm/", "a$rmc"),
        ("/(b)/\\0\\1\\9\\q/", "abbqc"),
        ("/b/$nothing $/", "a$nothing $c"),
        ("/b/\\t\\n/", "a\t\nc"),
    ],
)
def test_variables_and_the_request_uri_in_a_replacement(expression: str, expected: str) -> None:
    """Manual, pcre.subst: \\0 to \\9, \\n, \\r, \\t, \\u for the request URI and pseudo-variables."""
    core, module, run = made()
    core.catalogue = build_catalogue(Services(L_INFO, {}))
    run.vars["x"] = "y"
    for _ in range(2):
        assert module.pcre_subst(run, "abc", expression) == expected


@pytest.mark.parametrize("expression", ["", "/a", "/a/b", "/a/b/q", "abc", "/(/b/"])
def test_a_faulty_substitution_is_refused(expression: str) -> None:
    _, module, run = made()
    with pytest.raises(ValueError, match=r"\w"):
        module.pcre_subst(run, "a", expression)
