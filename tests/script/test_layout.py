"""The canonical layout: the same script, the same comments, and nothing left to do on a second round."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensipspy.script import ScriptErrors, parse_script
from opensipspy.script.errors import Pos
from opensipspy.script.layout import layout, masked, words_of

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.cfg"), *(ROOT / "tests").rglob("*.cfg")])


def bare(node: Any) -> Any:
    """A tree without its places."""
    if dataclasses.is_dataclass(node):
        values = (getattr(node, field.name) for field in dataclasses.fields(node))
        return (type(node).__name__, *(bare(value) for value in values if not isinstance(value, Pos)))
    if isinstance(node, tuple | list):
        return tuple(bare(item) for item in node)
    return node


def meaning(text: str) -> Any:
    script = parse_script("x.cfg", text=masked(text))
    settings = [(s.name, [str(token.value) for token in s.tokens]) for s in script.settings]
    return bare(script.blocks), bare(script.loadmodules), bare(script.modparams), settings


def comments(text: str) -> list[str]:
    return [comment.text for word in words_of(text, "x.cfg")[0] for comment in word.comments]


def holds(text: str) -> str:
    """The layout of a script, with everything that must be true of it."""
    new = layout(text)
    assert layout(new) == new
    assert meaning(new) == meaning(text)
    assert comments(new) == comments(text)
    return new


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_script_here_keeps_its_meaning_and_comments(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    try:
        parse_script(str(path), text=masked(text))
    except ScriptErrors:
        with pytest.raises(ScriptErrors):
            layout(text)
        return
    holds(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("route{f();}", "route {\n\tf();\n}\n"),
        ("route{ if(f()){g();}else{h();}; }", "route {\n\tif (f()) {\n\t\tg();\n\t} else {\n\t\th();\n\t}\n}\n"),
        (
            "route{if(f())g();else if(!h())exit;else drop;}",
            "route {\n\tif (f())\n\t\tg();\n\telse if (!h())\n\t\texit;\n\telse\n\t\tdrop;\n}\n",
        ),
        ("route{$var(x)=1+-2*(3 - $ml);}", "route {\n\t$var(x) = 1 + -2 * (3 - $ml);\n}\n"),
        ("route{if(!f()&&[$ml&4])exit;}", "route {\n\tif (!f() && [$ml & 4])\n\t\texit;\n}\n"),
        ('route{f("a",,-1);return( 1,"b" );}', 'route {\n\tf("a",, -1);\n\treturn(1, "b");\n}\n'),
        (
            'route{switch($rU){case "a":f();break;case -1:default:g();}}',
            'route {\n\tswitch ($rU) {\n\t\tcase "a":\n\t\t\tf();\n\t\t\tbreak;\n'
            "\t\tcase -1:\n\t\tdefault:\n\t\t\tg();\n\t}\n}\n",
        ),
        ("route{while($ml>1){break;}for($var(x) in $(avp(y)[*]))f($var(x));}",
         "route {\n\twhile ($ml > 1) {\n\t\tbreak;\n\t}\n\tfor ($var(x) in $(avp(y)[*]))\n\t\tf($var(x));\n}\n"),
        ("route{async(f(1),r,3);launch(f());}", "route {\n\tasync(f(1), r, 3);\n\tlaunch(f());\n}\n"),
        ("route[ a ]{}\nfailure_route[b]{}", "route[a] {\n}\n\nfailure_route[b] {\n}\n"),
        ("timer_route[t,5]{f();}", "timer_route[t, 5] {\n\tf();\n}\n"),
        ('modparam( "a","b",1 )\nloadmodule   "a.so"', 'modparam("a", "b", 1)\nloadmodule "a.so"\n'),
        ("socket = udp:127.0.0.1:5060 as 192.0.2.1", "socket=udp:127.0.0.1:5060 as 192.0.2.1\n"),
        ('  include_file   "a.cfg"\nlog_level=3', 'include_file   "a.cfg"\nlog_level=3\n'),
        ("route{f();}\r\n", "route {\n\tf();\n}\n"),
        ("route{\n\n\nf();\n\n\n\ng();\n\n}", "route {\n\tf();\n\n\tg();\n}\n"),
        ("route{f();# a\ngg(); /* b */\n\n# c\n}# d", "route {\n\tf();   # a\n\tgg();  /* b */\n\n\t# c\n}  # d\n"),
        ("route{if (f()) # why\n{g();}# end\nelse # or\nh();}",
         "route {\n\tif (f())  # why\n\t{\n\t\tg();\n\t}     # end\n\telse  # or\n\t\th();\n}\n"),
        ('route{f("a\n  b", # c\n"d");}', 'route {\n\tf("a\n  b", # c\n\t\t"d");\n}\n'),
        ("route{if (f() &&\ng()) exit;}", "route {\n\tif (f() &&\n\t\tg())\n\t\texit;\n}\n"),
    ],
)  # fmt: skip
def test_layout(before: str, after: str) -> None:
    assert holds(before) == after


def test_a_script_with_mistakes_has_no_layout() -> None:
    with pytest.raises(ScriptErrors):
        layout("route { f() }")
    with pytest.raises(ScriptErrors):
        layout('route { f("a); }')


_GAPS = st.sampled_from(
    ["", " ", "\n", "\n\n\n", " # note\n", "\n# own line\n", " /* in */ ", "\n/* a\n  b */\n", "\t"]
)
_STATEMENTS = st.recursive(
    st.sampled_from(["f ( ) ;", 'f ( "a" , , 1 ) ;', "exit ;", "$var(x) = - 1 ;", "return ( 1 ) ;", ";", "drop ( ) ;"]),
    lambda inner: st.one_of(
        st.builds("if ( ! f ( ) && $ml > 1 ) {{ {0} }}".format, inner),
        st.builds("if ( f ( ) ) {{ {0} }} else {{ {1} }}".format, inner, inner),
        st.builds("if ( f ( ) ) {{ {0} }} else if ( g ( ) ) {{ {1} }} else exit ;".format, inner, inner),
        st.builds("while ( f ( ) ) f ( ) ; {0}".format, inner),
        st.builds('switch ( $rU ) {{ case "a" : {0} break ; default : {1} }} ;'.format, inner, inner),
        st.builds("{0} {1}".format, inner, inner),
    ),
    max_leaves=6,
)


@given(_STATEMENTS, st.lists(_GAPS, min_size=1, max_size=40))
def test_comments_and_line_ends_anywhere(statements: str, gaps: list[str]) -> None:
    """Whatever stands between two words, the words and the comments come out in their order."""
    words = f"log_level = 3 \nroute {{ {statements} }} route [ a ] {{ }}".split(" ")
    holds("".join(f"{word} {gaps[index % len(gaps)]}" for index, word in enumerate(words) if word))
