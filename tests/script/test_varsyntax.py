"""The text of variables and format strings: what is read, and what is refused and where."""

from __future__ import annotations

import pytest

from opensipspy.script.declare import INDEX_ALL, VariableDecl
from opensipspy.script.formats import parse_format
from opensipspy.script.varsyntax import VariableError, VarSpec, parse_variable
from tests.script.fakes import Bench


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("$ru;", 3),
        ("$rU == 5", 3),
        ("$var(x)+1", 7),
        ("$(hdr(Via)[-1]{s.len}) rest", 22),
        ("$$ru", 2),
        ("$rU. Then", 3),
        ("$ct.fields(uri).", 15),
        ("$rb(application/sdp)", 20),
        ("$avp($avp(x))", 13),
        ("$si:$sp", 3),
        ("$rU(x)", 3),
        ("$( var(x) )", 11),
        ("$(<request>ru)", 14),
    ],
)
def test_a_variable_ends_where_its_text_ends(bench: Bench, text: str, end: int) -> None:
    assert parse_variable(text, 0, bench.catalogue).end == end


def test_offsets_count_in_the_whole_text(bench: Bench) -> None:
    spec = parse_variable("if ($rU == 5)", 4, bench.catalogue)
    assert (spec.start, spec.end, spec.text) == (4, 7, "$rU")


def test_the_parts_of_a_variable_are_kept(bench: Bench) -> None:
    spec = parse_variable("$(<reply>hdr($var(n))[$var(i)]{s.substr,$var(a),2}{s.len})", 0, bench.catalogue)
    assert (spec.decl.name, spec.context, spec.inner) == ("$hdr", "reply", "$var(n)")
    assert isinstance(spec.index, VarSpec)
    assert [call.decl.name for call in spec.transformations] == ["substr", "len"]
    assert [nested.text for nested in spec.nested()] == ["$var(n)", "$var(i)", "$var(a)"]
    assert not spec.writable
    assert parse_variable("$(avp(x)[*])", 0, bench.catalogue).index == INDEX_ALL


def scoped(bench: Bench) -> Bench:
    """A variable whose index may be told what to count from, as $tm.branch.* of tm."""
    decl = VariableDecl("$leg", "tm", lambda run, name, index: str(index), index=True, index_scopes=("all", "active"))
    bench.catalogue.add_variable(decl)
    return bench


def test_an_index_may_say_what_it_counts_from() -> None:
    """tm manual, $tm.branch.uri: `/active` and `/all`, in any case, behind a number or a variable."""
    bench = scoped(Bench())
    run = bench.run
    parse_variable("$var(i)", 0, bench.catalogue).writer()(run, 2)
    texts = ("$(leg[0/active])", "$(leg[-1/ALL])", "$(leg[$var(i)/active])", "$(leg[$var(none)/active])", "$(leg[3])")
    values = [parse_variable(text, 0, bench.catalogue).reader()(run) for text in texts]
    assert values == ["0/active", "-1/all", "2/active", None, "3"]


@pytest.mark.parametrize("text", ["$(leg[0/idle])", "$(leg[/active])", "$(avp(x)[0/active])"])
def test_what_an_index_does_not_count_from(text: str) -> None:
    bench = scoped(Bench())
    with pytest.raises(VariableError, match="is not an index"):
        parse_variable(text, 0, bench.catalogue)


@pytest.mark.parametrize(
    ("text", "start", "end", "message"),
    [
        ("$nosuch", 0, 7, "unknown variable $nosuch"),
        ("$nosuch(x)", 0, 7, "unknown variable $nosuch"),
        ("$", 0, 1, "name is missing"),
        ("$ x", 0, 1, "name is missing"),
        ("$()", 0, 2, "name is missing"),
        ("$(ru", 0, 4, "')' is missing"),
        ("$(ru[0])", 0, 8, "$ru takes no index"),
        ("$(hdr(x)[y])", 8, 11, "'y' is not an index"),
        ("$(hdr(x)[0)", 8, 10, "']' is missing"),
        ("$(hdr(x)[append])", 8, 16, "only $avp can be appended to"),
        ("$(hdr(x){s.len)", 8, 14, "'}' is missing"),
        ("$hdr", 0, 4, "$hdr needs a name"),
        ("$hdr()", 4, 6, "the name in $hdr() is empty"),
        ("$(ru(x))", 4, 7, "$ru takes no name"),
        ("$socket_in(nope)", 11, 15, "$socket_in has no 'nope'"),
        ("$hdr(a b)", 5, 8, "no header can have this name"),
        ("$(<nobody>ru)", 2, 10, "unknown context <nobody>"),
        ("$(<request ru)", 2, 13, "'>' is missing"),
        ("$(ru junk)", 5, 9, "unexpected 'junk'"),
        ("$C(zz)", 3, 5, "unknown foreground"),
        ("$return(x)", 8, 9, "invalid literal"),
        ("$avp($nosuch)", 5, 12, "unknown variable $nosuch"),
    ],
)
def test_a_mistake_is_pointed_at(bench: Bench, text: str, start: int, end: int, message: str) -> None:
    with pytest.raises(VariableError) as caught:
        parse_variable(text, 0, bench.catalogue)
    assert message in caught.value.message
    assert (caught.value.start, caught.value.end) == (start, end)


def test_the_nearest_variable_is_suggested(bench: Bench) -> None:
    with pytest.raises(VariableError) as caught:
        parse_variable("$sokcet_in", 0, bench.catalogue)
    assert "$socket_in" in caught.value.hint


def test_nesting_has_a_limit(bench: Bench) -> None:
    with pytest.raises(VariableError, match="nest deeper"):
        parse_variable("$avp(" * 40 + "x" + ")" * 40, 0, bench.catalogue)


def test_a_module_variable_may_come_without_its_name() -> None:
    bench = Bench()
    bench.catalogue.add_variable(
        VariableDecl("$mine", "mymodule", lambda run, name, index: name or "bare", name_arg=True)
    )
    assert bench.read("$mine") == "bare"
    assert bench.read("$mine(x)") == "x"


@pytest.mark.parametrize(
    ("text", "inline", "target"),
    [
        ("$var(x)", "run.vars.get('x')", "run.vars['x']"),
        ("$ru", "(run.ruri or None)", None),
        ("$rm", "run.msg.method", None),
        ("$var($var(x))", None, None),
        ("$(var(x){s.len})", None, None),
        ("$(<request>ru)", None, None),
        ("$rU", None, None),
    ],
)
def test_the_fast_form_is_offered(bench: Bench, text: str, inline: str | None, target: str | None) -> None:
    spec = parse_variable(text, 0, bench.catalogue)
    assert (spec.inline_expression(), spec.inline_target()) == (inline, target)


def test_a_quote_in_a_name_stays_in_the_name(bench: Bench) -> None:
    """A name becomes a Python literal, never Python source."""
    spec = parse_variable("$var(x'];boom[y)", 0, bench.catalogue)
    assert spec.inline_expression() == "run.vars.get(" + repr("x'];boom[y") + ")"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("$rm $fU@$fd", "INVITE alice@atlanta.example"),
        ("$si:$sp", "198.51.100.7:5099"),
        ("cost: 5$$", "cost: 5$"),
        ("[$avp(none)]", "[<null>]"),
        ("user $rU.", "user bob."),
        ("$(hdr(X-Custom)[1])!", "two!"),
        ("$rU$rU", "bobbob"),
    ],
)
def test_a_format_shows(bench: Bench, text: str, shown: str) -> None:
    assert bench.format(text) == shown


def test_a_format_of_one_variable_keeps_null(bench: Bench) -> None:
    assert parse_format("$avp(none)", bench.catalogue).value(bench.run) is None
    assert parse_format(" $avp(none)", bench.catalogue).value(bench.run) == " <null>"
    assert parse_format("$cs", bench.catalogue).value(bench.run) == "4711"
    assert parse_format("a$$b", bench.catalogue).constant == "a$b"


@pytest.mark.parametrize(("text", "start"), [("100$ bill", 3), ("a $", 2), ("x $nosuch y", 2), ("x $(ru y", 2)])
def test_a_bad_format_is_pointed_at(bench: Bench, text: str, start: int) -> None:
    with pytest.raises(VariableError) as caught:
        parse_format(text, bench.catalogue)
    assert caught.value.start == start


def test_a_reference_reads_and_writes() -> None:
    bench = Bench()
    ref = bench.spec("$avp(x)").reference()
    ref.set(bench.run, "one")
    ref.set(bench.run, "two")
    assert (ref.get(bench.run), ref.name, ref.is_avp) == ("two", "x", True)
    ref.replace(bench.run, "three")
    assert bench.read("$(avp(x)[*])") == "three"
    read_only = bench.spec("$rm").reference()
    read_only.set(bench.run, "BYE")
    assert bench.read("$rm") == "INVITE"


def test_a_read_only_variable_has_no_writer(bench: Bench) -> None:
    with pytest.raises(VariableError, match="cannot be written"):
        bench.spec("$rm").writer()
