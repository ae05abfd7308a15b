"""name-addr and addr-spec: From, To, Contact, Route, Record-Route, Path, Refer-To and their kin (RFC 3261 §20)."""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from opensipspy.sip.errors import ParseError
from opensipspy.sip.text import SPACES, is_token, skip_quoted, skip_spaces, split_list, split_params, unquote
from opensipspy.sip.uri import Uri, parse_uri

_TAG: Final = ";tag="
_ANGLE: Final = 60
# *(token LWS): token characters, and white space between. Then what phones write that leave out the quotes of a name in
# other letters or with brackets (RFC 4475 §3.1.2.15 leaves it to us). What ends or begins something else in a header is
# never a part of such a name, nor is a control character: there two readers might see two addresses.
_DISPLAY_MARKS: Final = str.maketrans("", "", "-.!%*_+`'~ \t\r\n" + "()[]{}@/&$#?|^=")


@mypyc_attr(acyclic=True)
class NameAddr:
    """One address with its parameters.

    text: all of it as written. display: without quotes and escapes, "" for none. uri: the text between < and >, or the
    bare addr-spec. params: raw with the leading ";". start, end: its range in the text it was parsed from. bracketed:
    it had < and >.
    """

    __slots__ = (
        "_params",
        "bracketed",
        "display",
        "end",
        "params",
        "start",
        "tag",
        "text",
        "uri",
        "uri_end",
        "uri_start",
    )

    def __init__(
        self,
        start: int,
        end: int,
        text: str,
        uri: str = "",
        uri_start: int = 0,
        uri_end: int = 0,
        params: str = "",
        tag: str = "",
        bracketed: bool = False,
    ) -> None:
        self.start: int = start
        self.end: int = end
        self.text: str = text
        self.display: str = ""
        self.uri: str = uri
        self.uri_start: int = uri_start
        self.uri_end: int = uri_end
        self.params: str = params
        self.tag: str = tag
        self.bracketed: bool = bracketed
        self._params: list[str] | None = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return "NameAddr(<" + self.uri + ">" + self.params + ")"

    def param_list(self) -> list[str]:
        """Parameters as a flat list: lower-case name, value as written ("" when there is none), name, value, ..."""
        found = self._params
        if found is None:
            found = split_params(self.params, self.uri_end)
            self._params = found
        return found

    def param(self, name: str) -> str | None:
        """The value of a parameter without quotes, "" when it has none, None when it is absent. name: lower case."""
        if not self.params:
            return None
        params = self.param_list()
        for i in range(0, len(params), 2):
            if params[i] == name:
                return unquote(params[i + 1])
        return None

    @property
    def q(self) -> int:
        """The q parameter in thousandths, -1 when it is absent or no number from 0 to 1 (RFC 3261 §25.1 qvalue)."""
        text = self.param("q")
        return -1 if text is None else parse_q(text)

    @property
    def expires(self) -> int:
        """The expires parameter in seconds, -1 when absent; nonsense counts as 3600 (RFC 3261 §20.10)."""
        text = self.param("expires")
        if text is None:
            return -1
        if not text.isascii() or not text.isdigit():
            return 3600
        digits = text.lstrip("0")
        return 4294967295 if len(digits) > 10 else min(int(digits or "0"), 4294967295)

    def parsed_uri(self) -> Uri:
        """The address taken apart; ParseError when it is no URI."""
        return parse_uri(self.uri, self.uri_start)


def _refuse_spaces(found: NameAddr) -> None:
    # Folds are spaces by now.
    uri = found.uri
    if " " in uri or '"' in uri or "\t" in uri:
        raise ParseError("space or quote inside an address", found.uri_start)


def _refuse_marks(name: str, offset: int) -> None:
    for char in name:
        if char.isascii() and not char.isalnum():
            raise ParseError("display name must be quoted", offset)


def parse_q(text: str) -> int:
    """A qvalue in thousandths, -1 when the text is none; more than three decimals are cut."""
    whole, _, decimals = text.partition(".")
    if whole not in ("0", "1", "") or not text.isascii() or (decimals and not decimals.isdigit()):
        return -1
    if not whole and not decimals:
        return -1
    value = (1000 if whole == "1" else 0) + int((decimals + "000")[:3])
    return value if value <= 1000 else -1


def usual_name_addr(text: str, start: int, end: int) -> NameAddr | None:
    """`<uri>` or `<uri>;tag=x`, which nearly every From and To is; None for everything else.

    The range is not empty, and there is no quote and no tab in it.
    """
    whole = text[start:end]
    if " " in whole or ord(whole[0]) != _ANGLE:
        return None
    close = whole.find(">")
    uri = whole[1:close]
    if close < 2 or "<" in uri:
        return None
    params = whole[close + 1 :]
    tag = ""
    if params:
        tag = params[5:]
        if not params.startswith(_TAG) or not is_token(tag):
            return None
    return NameAddr(start, end, whole, uri, start + 1, start + close, params, tag, True)


def name_addr_in(text: str, start: int, end: int, plain: bool = False) -> NameAddr:
    """Parse one element: `"Name" <uri>;params`, `Name <uri>`, `<uri>` or `uri;params`, and white space around it.
    plain: there is no quote and no tab in it."""
    if plain and start < end:
        usual = usual_name_addr(text, start, end)
        if usual is not None:
            return usual
    while start < end and text[start] in SPACES:
        start += 1
    while end > start and text[end - 1] in SPACES:
        end -= 1
    if start == end:
        raise ParseError("empty address", start)
    whole = text[start:end]
    if '"' not in whole and "\t" not in whole:
        usual = usual_name_addr(text, start, end)
        if usual is not None:
            return usual
    found = NameAddr(start, end, whole, "", start, end)
    angle = text.find("<", start, end)
    if text[start] == '"':
        after = skip_quoted(text, start, end)
        found.display = unquote(text[start:after])
        angle = skip_spaces(text, after, end)
        if angle == end or text[angle] != "<":
            raise ParseError("no <uri> after a quoted name", after)
    elif angle > start:
        display = text[start:angle].rstrip(SPACES)
        if not display.isalnum():
            rest = display.translate(_DISPLAY_MARKS)
            if rest and not rest.isalnum():
                _refuse_marks(rest, start)
            display = " ".join(display.split())
        found.display = display
    if angle >= 0:
        close = text.find(">", angle, end)
        if close < 0:
            raise ParseError("'<' is not closed", angle)
        found.bracketed = True
        found.uri_start = angle + 1
        found.uri_end = close
        found.uri = text[angle + 1 : close]
        if text.find("<", angle + 1, close) >= 0 or not found.uri:
            raise ParseError("bad address between < and >", angle)
        close += 1
        if close == end:
            _refuse_spaces(found)
            return found
        found.params = text[close:end]
    else:
        semicolon = text.find(";", start, end)
        if semicolon >= 0:
            found.params = text[semicolon:end]
            found.uri_end = semicolon
            while text[found.uri_end - 1] in SPACES and found.uri_end > start:
                found.uri_end -= 1
        else:
            found.uri_end = end
        found.uri = text[start : found.uri_end]
        if "?" in found.uri or "," in found.uri:
            # Without brackets these end the URI or the element (RFC 3261 §20.10).
            raise ParseError("address with '?' or ',' needs < and >", start)
    _refuse_spaces(found)
    params = found.params
    if params.startswith(";tag="):
        tag = params[5:]
        if is_token(tag):
            found.tag = tag
            return found
    pieces = split_params(params, found.uri_end)
    found._params = pieces
    for i in range(0, len(pieces), 2):
        if pieces[i] == "tag":
            if not is_token(pieces[i + 1]):
                raise ParseError("bad tag", found.uri_end)
            if not found.tag:
                # A second one breaks RFC 3261 §7.3.1, but some phones put their own behind that of the dialog.
                found.tag = pieces[i + 1]
    return found


def name_addrs_in(text: str, start: int, end: int, limit: int = 256) -> list[NameAddr]:
    """Parse a comma list of addresses in a range of a text."""
    if text.find(",", start, end) < 0:
        return [name_addr_in(text, start, end)]
    cuts = split_list(text, start, end, limit)
    return [name_addr_in(text, cuts[i], cuts[i + 1]) for i in range(0, len(cuts), 2)]


def parse_name_addr(text: str) -> NameAddr:
    """Parse one address with its parameters. ParseError when it is none."""
    return name_addr_in(text, 0, len(text))


def parse_name_addr_list(text: str, limit: int = 256) -> list[NameAddr]:
    """Parse a comma list of addresses. ParseError when one of them is none, or there are more than `limit`."""
    return name_addrs_in(text, 0, len(text), limit)
