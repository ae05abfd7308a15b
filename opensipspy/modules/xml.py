"""xml: a variable that holds XML documents and reaches into them by path.

The paths are those of the OpenSIPS manual: `$xml(doc/a/b[1])` is an element, `.val` its text, `.attr/NAME` one of its
attributes. What is read may come from anybody: nothing is fetched, no entity is defined or expanded, and size, depth
and the number of documents are bounded.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from typing import Any, Final

from opensipspy.module import Module, StartError, variable
from opensipspy.script.declare import Index, Value
from opensipspy.script.run import Run

ELEMENT: Final = 0
TEXT: Final = 1
ATTRIBUTE: Final = 2

VIEW: Final = "xml.documents"
"""Key in `run.ctx`: the documents that this message has set."""
MAX_TEXT: Final = 4 * 1024 * 1024
"""Characters of a document, as it is read and as it grows."""
MAX_DOCUMENTS: Final = 10_000
"""Documents kept from one message to the next."""
MAX_STEPS: Final = 100
"""Elements in a path."""
BLANKS: Final = " \t\n"
"""White space around an inserted element that is inserted with it."""


class Path:
    """The parsed text in `$xml(...)`: a document's name, the (element, index) steps, and what of the last is meant."""

    __slots__ = ("access", "attribute", "name", "steps", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.name, slash, rest = text.partition("/")
        self.access = ELEMENT
        self.attribute = ""
        if not self.name:
            raise ValueError("the name of the XML variable is missing")
        if slash and ".attr/" in rest:
            rest, _, self.attribute = rest.partition(".attr/")
            self.access = ATTRIBUTE
            if not self.attribute:
                raise ValueError("the name of the attribute is missing after .attr/")
        elif slash and rest.endswith(".val"):
            rest = rest.removesuffix(".val")
            self.access = TEXT
        elif slash and rest.endswith(".attr"):
            raise ValueError("the name of the attribute is missing after .attr")
        self.steps: tuple[tuple[str, int], ...] = tuple(map(_step, rest.split("/"))) if slash else ()
        if len(self.steps) > MAX_STEPS:
            raise ValueError(f"a path has at most {MAX_STEPS} elements")


def _step(text: str) -> tuple[str, int]:
    name, bracket, index = text.partition("[")
    if not name:
        raise ValueError("the name of an element is missing")
    if not bracket:
        if "]" in name:
            raise ValueError("] without [")
        return name, 0
    if not index.endswith("]"):
        raise ValueError("] is missing")
    digits = index[:-1]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
        raise ValueError(f"[{digits}] is no index: they count from 0")
    return name, int(digits)


class Document:
    """A parsed document. size: characters, at least as many as it would be written with. names_encoding: whether its
    first line did."""

    __slots__ = ("names_encoding", "size", "tree")

    def __init__(self, tree: Any, text: str) -> None:
        self.tree = tree
        self.size = len(text)
        declaration = text.lstrip(BLANKS).partition("?>")[0]
        self.names_encoding = declaration.startswith("<?xml") and "encoding" in declaration


class Xml(Module):
    """Read, build and change XML documents in scripts.

    A document lives until it is replaced or removed. A script that waits keeps the documents it has set itself,
    whatever other messages set under the same name meanwhile.
    """

    name = "xml"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._documents: dict[str, Document] = {}
        self._etree: Any = None

    async def start(self) -> None:
        if importlib.util.find_spec("lxml") is None:
            raise StartError("xml needs the Python package lxml: pip install 'opensipspy[xml]'")
        self._etree = await asyncio.to_thread(importlib.import_module, "lxml.etree")

    @variable("$xml", name_arg=True, parse_name=Path)
    def xml(self, run: Run, name: Path, index: Index) -> Value:
        """The document, element, text (`.val`) or attribute (`.attr/NAME`) at the path; NULL when it is not there."""
        document = self._document(run, name.name)
        if document is None:
            return None
        if not name.steps:
            return self._written(document)
        element = _find(document.tree.getroot(), name.steps)
        if element is None:
            return None
        if name.access == TEXT:
            return (element.text or "") + "".join(child.tail or "" for child in element)
        if name.access == ATTRIBUTE:
            return _attribute(element, name.attribute)
        return self._text(self._etree.tostring(element, encoding="utf-8", with_tail=False, xml_declaration=False))

    @xml.setter
    def xml_set(self, run: Run, name: Path, index: Index, value: Value) -> None:
        """Start a document, add an element under the one at the path, or set its text or attribute; NULL removes."""
        text = None if value is None else str(value)
        try:
            if name.steps:
                self._change(run, name, text)
            elif text:
                self._start_document(run, name.name, text)
            else:
                self._forget(run, name.name)
        except ValueError as error:
            self.core.log.warning("$xml(%s): %s", name.text, error)

    # --- documents

    def _document(self, run: Run, name: str) -> Document | None:
        view = run.ctx.get(VIEW)
        if isinstance(view, dict) and name in view:
            found: Document | None = view[name]
            return found
        return self._documents.get(name)

    def _start_document(self, run: Run, name: str, text: str) -> None:
        try:
            tree = self._parse(text)
        except ValueError:
            # The old document must not pass for the new one.
            self._forget(run, name)
            raise
        if name not in self._documents and len(self._documents) >= MAX_DOCUMENTS:
            raise ValueError(f"there are {MAX_DOCUMENTS} documents already")
        view = run.ctx.setdefault(VIEW, {})
        assert isinstance(view, dict)
        view[name] = self._documents[name] = Document(tree, text)

    def _forget(self, run: Run, name: str) -> None:
        view = run.ctx.get(VIEW)
        if isinstance(view, dict):
            view.pop(name, None)
        self._documents.pop(name, None)

    def _parse(self, text: str) -> Any:
        """The tree of a document; raises ValueError with what is wrong with it."""
        if len(text) > MAX_TEXT:
            raise ValueError(f"more than {MAX_TEXT} characters")
        if "<!ENTITY" in text or "\0" in text:
            # A NUL is how UTF-16 would get past the first question.
            raise ValueError("a document defines no entities and has no NUL in it")
        data = text.strip(BLANKS + "\r").encode("utf-8", "surrogateescape")
        etree = self._etree
        parser = self._parser(False)
        try:
            return etree.fromstring(data, parser).getroottree()
        except etree.XMLSyntaxError as error:
            # Prefixes that nothing defines are taken as they come; the rest of the document is fine then. Asked is the
            # log of the parser: that of the error goes on from document to document.
            if not parser.error_log or any(entry.domain_name != "NAMESPACE" for entry in parser.error_log):
                raise ValueError(f"not well-formed: {_reason(error)}") from None
        return etree.fromstring(data, self._parser(True)).getroottree()

    def _parser(self, recover: bool) -> Any:
        return self._etree.XMLParser(
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            strip_cdata=False,
            recover=recover,
        )

    def _written(self, document: Document) -> str:
        """The whole document with its XML declaration, as OpenSIPS shows it."""
        info = document.tree.docinfo
        encoding = info.encoding or "UTF-8"
        named = f' encoding="{encoding}"' if document.names_encoding else ""
        body = self._etree.tostring(document.tree, encoding=encoding, xml_declaration=False)
        return f'<?xml version="{info.xml_version or "1.0"}"{named}?>\n{self._text(body)}'

    @staticmethod
    def _text(data: bytes) -> str:
        return data.decode("utf-8", "surrogateescape")

    # --- changes

    def _change(self, run: Run, path: Path, text: str | None) -> None:
        document = self._document(run, path.name)
        if document is None:
            raise ValueError("there is no such document")
        element = _find(document.tree.getroot(), path.steps)
        if element is None:
            raise ValueError("there is no such element")
        if text is not None:
            self._make_room(document, len(text))
        if path.access == ATTRIBUTE:
            self._set_attribute(element, path.attribute, text)
        elif path.access == TEXT:
            self._set_text(element, text)
        elif text is None:
            if element.getparent() is None:
                self._forget(run, path.name)
            else:
                _take_out(element)
        else:
            self._insert(element, text)

    def _make_room(self, document: Document, more: int) -> None:
        if document.size + more > MAX_TEXT:
            # Removals are not counted off one by one.
            document.size = len(self._etree.tostring(document.tree, encoding="utf-8"))
            if document.size + more > MAX_TEXT:
                raise ValueError(f"the document would be longer than {MAX_TEXT} characters")
        document.size += more

    @staticmethod
    def _set_attribute(element: Any, name: str, value: str | None) -> None:
        full = next((key for key in element.attrib if _local(key) == name), name)
        if value is None:
            element.attrib.pop(full, None)
        else:
            element.set(full, value)

    def _set_text(self, element: Any, text: str | None) -> None:
        """Give the element this text and no other; it may hold references and CDATA sections, which are understood."""
        holder = None if not text else self._parse(f"<x>{text}</x>").getroot()
        element.text = None
        for child in element:
            child.tail = None
        if holder is None:
            return
        new: Any = (holder.text or "") + "".join(child.tail or "" for child in holder)
        assert text is not None
        if text.startswith("<![CDATA[") and text.endswith("]]>") and text.count("<![CDATA[") == 1:
            new = self._etree.CDATA(new)
        if len(element):
            element[-1].tail = new
        else:
            element.text = new

    def _insert(self, parent: Any, text: str) -> None:
        """Add an element at the end of another one, with the white space around it."""
        element = self._parse(text).getroot()
        body = text.lstrip(BLANKS)
        before = text[: len(text) - len(body)]
        after = body[len(body.rstrip(BLANKS)) :]
        if before:
            if len(parent):
                parent[-1].tail = (parent[-1].tail or "") + before
            else:
                parent.text = (parent.text or "") + before
        element.tail = after or None
        parent.append(element)


def _reason(error: Exception) -> str:
    """What the parser says, without a copy of what it read."""
    return str(error).partition("\n")[0][:200]


def _local(name: object) -> str:
    """An element's or attribute's name without its namespace; "" for a comment or an instruction."""
    if not isinstance(name, str):
        return ""
    return name.rpartition("}")[2].rpartition(":")[2]


def _find(root: Any, steps: tuple[tuple[str, int], ...]) -> Any:
    """The element that a path leads to; its first step is the root element. None when there is none."""
    level = [root]
    found = None
    for name, index in steps:
        found = None
        for element in level:
            if _local(element.tag) == name:
                if index == 0:
                    found = element
                    break
                index -= 1
        if found is None:
            return None
        level = found
    return found


def _attribute(element: Any, name: str) -> str | None:
    for key, value in element.attrib.items():
        if _local(key) == name:
            return str(value)
    return None


def _take_out(element: Any) -> None:
    """Remove an element; the text that follows it stays."""
    parent, tail = element.getparent(), element.tail
    if tail:
        before = element.getprevious()
        if before is None:
            parent.text = (parent.text or "") + tail
        else:
            before.tail = (before.tail or "") + tail
    parent.remove(element)
