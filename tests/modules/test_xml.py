"""xml: documents built, read and changed by scripts, with the manual's examples and hostile documents."""

from __future__ import annotations

import asyncio
import logging

import pytest

pytest.importorskip("lxml", reason="the Python package lxml is missing")

from opensipspy.module import StartError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.xml import MAX_STEPS, MAX_TEXT, Path, Xml
from opensipspy.script.run import Run, Value


class Lab:
    def __init__(self) -> None:
        self.core = FakeCore()
        self.module = self.core.add(Xml())
        asyncio.run(self.module.launch())
        self.run = self.message()

    def message(self) -> Run:
        return make_run(request(), core=self.core)

    def put(self, path: str, value: Value, run: Run | None = None) -> None:
        self.core.write("$xml", run or self.run, value, path)

    def get(self, path: str, run: Run | None = None) -> Value:
        return self.core.read("$xml", run or self.run, path)


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_creating_a_document(lab: Lab):
    """Manual, "Creating a document": every step of the example."""
    lab.put("my_doc", "<doc></doc>")
    lab.put("my_doc/doc", "<list></list>")
    lab.put("my_doc/doc/list", "<item>some_value</item>")
    lab.put("my_doc/doc/list", "<item>another_value</item>")
    lab.put("my_doc/doc/list/item[1].val", "new_val")
    assert lab.get("my_doc/doc/list/item[1].val") == "new_val"
    lab.put("my_doc/doc/list.attr/sort", "asc")
    assert lab.get("my_doc/doc/list.attr/sort") == "asc"
    lab.put("my_doc/doc/list.attr/sort", None)
    assert lab.get("my_doc/doc/list.attr/sort") is None
    lab.put("my_doc/doc/list/item[1]", None)
    lab.put("my_doc/doc/list.val", "end")
    assert lab.get("my_doc/doc/list") == "<list><item>some_value</item>end</list>"
    lab.put("my_doc/doc/list.val", None)
    assert lab.get("my_doc/doc/list") == "<list><item>some_value</item></list>"
    assert lab.get("my_doc") == '<?xml version="1.0"?>\n<doc><list><item>some_value</item></list></doc>'
    lab.put("my_doc", None)
    assert lab.get("my_doc") is None


def test_inserting_nodes_with_indentation(lab: Lab):
    """Manual, "Inserting nodes with indentation": the white space around the element goes in with it."""
    lab.put("d", "<doc>\n</doc>")
    lab.put("d/doc", "\t<list></list>\n")
    lab.put("d/doc/list", "\n\t\t<item></item>\n\t")
    assert lab.get("d/doc") == "<doc>\n\t<list>\n\t\t<item/>\n\t</list>\n</doc>"


def test_an_element_is_read_with_everything_in_it_and_its_text_alone_with_val(lab: Lab):
    lab.put("d", "<a>one<b c='1'>two</b>three<![CDATA[<four>]]><!-- five --></a>")
    assert lab.get("d/a/b") == '<b c="1">two</b>'
    assert lab.get("d/a.val") == "onethree<four>"
    assert lab.get("d/a/b.attr/c") == "1"
    assert lab.get("d/a/b.attr/none") is None
    assert lab.get("d/a/b[1]") is None
    assert lab.get("d/a/none/none.val") is None
    assert lab.get("d/none") is None
    assert lab.get("none/a") is None


def test_elements_of_a_namespace_are_found_by_their_own_name(lab: Lab):
    lab.put("d", '<p:presence xmlns:p="urn:x" xmlns:q="urn:y"><q:tuple q:id="7"/></p:presence>')
    assert lab.get("d/presence/tuple.attr/id") == "7"
    lab.put("undefined", "<soap:body><soap:answer>42</soap:answer></soap:body>")
    assert lab.get("undefined/body/answer.val") == "42"


def test_a_broken_document_changes_nothing_for_later_ones(lab: Lab):
    lab.put("d", "<soap:a><b")
    assert lab.get("d") is None
    lab.put("d", "<soap:a>1</soap:a>")
    assert lab.get("d/a.val") == "1"


def test_values_are_escaped_where_they_have_to_be(lab: Lab):
    lab.put("d", "<a/>")
    lab.put("d/a.attr/q", '"<&')
    assert lab.get("d/a") == '<a q="&quot;&lt;&amp;"/>'
    assert lab.get("d/a.attr/q") == '"<&'
    lab.put("d/a.val", "1 &lt; 2")
    assert lab.get("d/a.val") == "1 < 2"
    lab.put("d/a.val", "<![CDATA[1 < 3]]>")
    assert lab.get("d/a.val") == "1 < 3"
    assert "<![CDATA[1 < 3]]>" in str(lab.get("d/a"))
    lab.put("d/a.val", 12)
    assert lab.get("d/a.val") == "12"


def test_text_that_is_no_xml_changes_nothing(lab: Lab, caplog: pytest.LogCaptureFixture):
    lab.put("d", "<a>old</a>")
    lab.put("d/a.val", "a < b")
    assert lab.get("d/a.val") == "old"
    assert "not well-formed" in caplog.text
    lab.put("d/a", "")
    lab.put("d/a", "plain")
    lab.put("d/a", "<b/><c/>")
    lab.put("d/a.attr/x y", "1")
    lab.put("d/a.attr/x", "\x01")
    lab.put("d/none.val", "x")
    assert lab.get("d/a") == "<a>old</a>"


def test_a_document_that_cannot_be_read_does_not_leave_the_old_one(lab: Lab):
    lab.put("d", "<a>old</a>")
    lab.put("d", "<a>")
    assert lab.get("d") is None


def test_removing_an_element_keeps_the_text_behind_it(lab: Lab):
    lab.put("d", "<a>1<b/>2<b/>3</a>")
    lab.put("d/a/b[1]", None)
    assert lab.get("d/a") == "<a>1<b/>23</a>"
    lab.put("d/a/b", None)
    assert lab.get("d/a") == "<a>123</a>"
    lab.put("d/a", None)
    assert lab.get("d") is None


def test_the_declaration_is_kept(lab: Lab):
    text = '<?xml version="1.0" encoding="UTF-8"?>\n<a>\u00e9</a>'
    lab.put("d", text)
    assert lab.get("d") == text
    latin = b'<?xml version="1.0" encoding="iso-8859-1"?>\n<a>\xe9</a>'.decode("utf-8", "surrogateescape")
    lab.put("d", latin)
    assert lab.get("d/a.val") == "\u00e9"
    assert lab.get("d") == latin


def test_documents_outlive_the_message_but_a_waiting_script_keeps_its_own(lab: Lab):
    """Manual, "Variable lifetime": they are not reset for each message."""
    other = lab.message()
    lab.put("d", "<a>mine</a>")
    assert lab.get("d/a.val", other) == "mine"
    lab.put("d", "<a>theirs</a>", other)
    assert lab.get("d/a.val") == "mine"
    assert lab.get("d/a.val", lab.message()) == "theirs"


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;">]><a b="&y;"/>',
        "<a>\0</a>",
        "<a>" * 5000 + "</a>" * 5000,
        "<a " + " ".join(f"a{i}='1'" for i in range(3)) + " a1='2'/>",
        "<a>" + "x" * MAX_TEXT + "</a>",
        "\ud800",
        "<a>\udcff</a>",
        '<?xml version="1.0" encoding="utf-16"?><a/>',
        '<?xml version="1.0" encoding="no-such"?><a/>',
        "",
        " ",
        "<",
    ],
    ids=range(13),
)
def test_hostile_documents_are_refused(lab: Lab, text: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    lab.put("d", text)
    assert lab.get("d") is None
    assert len(caplog.text) < 2000


def test_external_parts_are_not_fetched(lab: Lab):
    lab.put("d", '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><a>&foo;</a>')
    assert lab.get("d/a.val") in ("", None)


def test_a_document_does_not_grow_without_end(lab: Lab, caplog: pytest.LogCaptureFixture):
    lab.put("d", "<a/>")
    for _ in range(5):
        lab.put("d/a", "<b>" + "x" * (MAX_TEXT // 4) + "</b>")
    assert len(str(lab.get("d"))) <= MAX_TEXT
    assert "longer than" in caplog.text
    lab.put("d/a/b", None)
    lab.put("d/a", "<c/>")
    assert lab.get("d/a/c") == "<c/>"


def test_a_path_is_checked_when_the_script_is_read():
    for text in (
        "",
        "/a",
        "d/",
        "d//a",
        "d/a[",
        "d/a[]",
        "d/a[-1]",
        "d/a[x]",
        "d/a]",
        "d/a.attr/",
        "d/a.attr",
        "d/.val",
    ):
        with pytest.raises(ValueError, match=r"\w"):
            Path(text)
    with pytest.raises(ValueError, match="at most"):
        Path("d" + "/a" * (MAX_STEPS + 1))
    assert Path("d/a.b/c[12].val").steps == (("a.b", 0), ("c", 12))


def test_without_lxml_the_start_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"opensipspy\[xml\]"):
        Lab()
