"""Functions on headers and on the start line: is it there, add, remove, and lists of option tags."""

from __future__ import annotations

import fnmatch
import json
import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Annotated, Final

from opensipspy.module import Fixup, script_function
from opensipspy.module.reply_path import REPLY_BODY
from opensipspy.script.declare import VarRef
from opensipspy.script.kinds import BRANCH, ERROR, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run
from opensipspy.sip import H_OTHER, H_PRIVACY, M_OTHER, Header, Message, header_kind, method_number

from .body import body_now

if TYPE_CHECKING:
    from opensipspy.module import Core

MESSAGE: Final = REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL
REPLIES: Final = REQUEST | FAILURE | BRANCH | ERROR

PRIVACY_TYPES: Final = frozenset({"header", "session", "user", "none", "critical", "id", "history"})
LISTS: Final = "sipmsgops.lists"
"""Prefix of the keys in `run.ctx` under which changed option lists are kept, one for each branch."""


class Methods:
    """is_method's argument: known methods as a mask, others by name."""

    __slots__ = ("mask", "names")

    def __init__(self, text: str) -> None:
        self.mask = 0
        names = set()
        for name in text.upper().split("|"):
            name = name.strip()
            if not name:
                raise ValueError(f'"{text}" is no list of methods such as "INVITE|ACK"')
            bit = method_number(name)
            if bit == M_OTHER:
                names.add(name)
            else:
                self.mask |= bit
        self.names = frozenset(names)


class HeaderName:
    """A header's name, looked up once: by kind where it has one, else by text."""

    __slots__ = ("kind", "name")

    def __init__(self, name: str) -> None:
        name = name.strip().removesuffix(":")
        if not name or not name.isascii() or not name.isprintable() or " " in name or ":" in name:
            raise ValueError(f'"{name}" is no header name')
        self.name = name
        self.kind = header_kind(name)

    def first(self, msg: Message) -> Header | None:
        if self.kind != H_OTHER:
            return msg.first(self.kind)
        found = msg.named(self.name)
        return found[0] if found else None

    def all(self, msg: Message) -> list[Header]:
        return msg.all(self.kind) if self.kind != H_OTHER else msg.named(self.name)


class Glob:
    """A shell pattern for header names, without regard to case."""

    __slots__ = ("_match",)

    def __init__(self, text: str) -> None:
        # fnmatch makes atomic groups of its stars: no pattern takes more than polynomial time.
        self._match = re.compile(fnmatch.translate(text), re.IGNORECASE).match

    def matches(self, name: str) -> bool:
        return self._match(name) is not None


def privacy_type(text: str) -> str:
    """is_privacy's argument."""
    folded = text.strip().lower()
    if folded not in PRIVACY_TYPES:
        raise ValueError(f'"{text}" is no privacy type; those are {", ".join(sorted(PRIVACY_TYPES))}')
    return folded


def header_lines(text: str) -> str | None:
    """Header lines ready to be inserted; None for a text that would end the headers early."""
    if not text.endswith("\r\n"):
        text = text.rstrip("\r\n") + "\r\n"
    if text.startswith(("\r", "\n")) or "\r\n\r\n" in text or "\n\n" in text or "\0" in text:
        return None
    return text


class HeaderFunctions:
    """The part of sipmsgops that works on headers."""

    core: Core

    # --- asking

    @script_function(routes=MESSAGE)
    def is_method(self, run: Run, name: Annotated[Methods, Fixup(Methods, "string")]) -> int:
        """Compare the method of a request, or of the CSeq of a reply, with "METHOD" or "METHOD1|METHOD2|..."."""
        msg = run.msg
        if msg.method_id & name.mask:
            return 1
        return 1 if name.names and msg.method.upper() in name.names else -1

    @script_function(routes=MESSAGE)
    def has_totag(self, run: Run) -> int:
        """Tell whether To has a tag: the request belongs to a dialog."""
        return 1 if run.msg.to_tag else -1

    @script_function(routes=MESSAGE)
    def is_present_hf(self, run: Run, hf_name: Annotated[HeaderName, Fixup(HeaderName, "string")]) -> int:
        """Tell whether the message came with a header of that name, long or compact."""
        return 1 if hf_name.first(run.msg) is not None else -1

    @script_function(routes=MESSAGE)
    def is_privacy(self, run: Run, privacy_type: Annotated[str, Fixup(privacy_type, "string")]) -> int:
        """Tell whether the Privacy header (RFC 3323) asks for that type."""
        for header in run.msg.all(H_PRIVACY):
            for value in header.value.replace(",", ";").split(";"):
                if value.strip().lower() == privacy_type:
                    return 1
        return -1

    # --- adding and removing

    @script_function(routes=MESSAGE)
    def append_hf(
        self, run: Run, txt: str, hdr_anchor: Annotated[HeaderName | None, Fixup(HeaderName, "string")] = None
    ) -> int:
        """Add header lines after the last header, or after the first `hdr_anchor` where the message has one.

        Returns -1 for a text that is no header.
        """
        lines = self._lines(txt)
        if lines is None:
            return -1
        anchor = hdr_anchor.first(run.msg) if hdr_anchor is not None else None
        if anchor is None:
            run.edits.append(lines)
        else:
            run.edits.insert_after(anchor, lines)
        return 1

    @script_function(routes=MESSAGE)
    def insert_hf(
        self, run: Run, txt: str, hdr: Annotated[HeaderName | None, Fixup(HeaderName, "string")] = None
    ) -> int:
        """Add header lines before the first header, or before the first `hdr` where the message has one.

        Returns -1 for a text that is no header.
        """
        lines = self._lines(txt)
        if lines is None:
            return -1
        before = hdr.first(run.msg) if hdr is not None else None
        if before is None:
            run.edits.prepend(lines)
        else:
            run.edits.insert_before(before, lines)
        return 1

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def append_urihf(self, run: Run, prefix: str, suffix: str) -> int:
        """Add a header made of `prefix`, the Request-URI as it was received, and `suffix`."""
        lines = self._lines(f"{prefix}{run.msg.ruri}{suffix}")
        if lines is None:
            return -1
        run.edits.append(lines)
        return 1

    @script_function(routes=MESSAGE)
    def remove_hf(self, run: Run, hname: Annotated[HeaderName, Fixup(HeaderName, "string")]) -> int:
        """Remove all headers of that name. Returns -1 when there was none."""
        found = hname.all(run.msg)
        for header in found:
            run.edits.remove(header)
        return 1 if found else -1

    @script_function(routes=MESSAGE)
    def remove_hf_re(self, run: Run, hname_expr: Pattern) -> int:
        """Remove all headers whose name matches the expression. Returns -1 when there was none."""
        try:
            found = [header for header in run.msg.headers if hname_expr.search(header.name)]
        except TimeoutError:
            self.core.log.error("sipmsgops: remove_hf_re: the expression took too long")
            return -1
        for header in found:
            run.edits.remove(header)
        return 1 if found else -1

    @script_function(routes=MESSAGE)
    def remove_hf_glob(self, run: Run, hname_pattern: Annotated[Glob, Fixup(Glob, "string")]) -> int:
        """Remove all headers whose name matches the shell pattern. Returns -1 when there was none."""
        found = [header for header in run.msg.headers if hname_pattern.matches(header.name)]
        for header in found:
            run.edits.remove(header)
        return 1 if found else -1

    # --- replies

    @script_function(routes=REPLIES)
    def append_to_reply(self, run: Run, txt: str) -> int:
        """Add header lines to every reply that is made here to the request."""
        lines = self._lines(txt)
        if lines is None:
            return -1
        run.reply_edits.append(lines)
        return 1

    @script_function(routes=REPLIES)
    def append_body_to_reply(self, run: Run, txt: str) -> int:
        """Give every reply that is made here to the request this body; a later call replaces it."""
        run.ctx[REPLY_BODY] = txt.encode("utf-8", "surrogateescape")
        return 1

    @script_function(routes=REQUEST | FAILURE | BRANCH | LOCAL)
    def append_time(self, run: Run) -> int:
        """Add a Date header (RFC 3261 §20.17) with the time of now to every reply that is made here."""
        run.reply_edits.append(f"Date: {formatdate(self.core.time(), usegmt=True)}\r\n")
        return 1

    @script_function(routes=ONREPLY)
    def change_reply_status(self, run: Run, code: int, reason: str) -> int:
        """Let the reply go on with another status and reason phrase.

        Returns -1 outside 100 to 699, and for a change from or to a provisional or a positive reply.
        """
        msg = run.msg
        if msg.is_request or not 100 <= code <= 699 or "\r" in reason or "\n" in reason:
            return -1
        if (code < 300 or msg.status < 300) and code // 100 != msg.status // 100:
            self.core.log.error("sipmsgops: change_reply_status: a %d cannot become a %d", msg.status, code)
            return -1
        # What follows decides by the status: transactions, accounting, $rs, and the start line that is built.
        msg.set_status(code, reason)
        return 1

    # --- option lists

    @script_function(routes=MESSAGE)
    def list_hdr_has_option(
        self, run: Run, hdr_name: Annotated[HeaderName, Fixup(HeaderName, "string")], option: str
    ) -> int:
        """Tell whether a comma-separated header (Supported, Require ...) lists the option now."""
        wanted = option.strip().lower()
        for header in hdr_name.all(run.msg):
            if any(item.lower() == wanted for item in self._options(run, header)):
                return 1
        return -1

    @script_function(routes=MESSAGE)
    def list_hdr_add_option(
        self, run: Run, hdr_name: Annotated[HeaderName, Fixup(HeaderName, "string")], option: str
    ) -> int:
        """Add the option at the end of the first header of that name. Returns -1 without such a header."""
        header = hdr_name.first(run.msg)
        option = option.strip()
        if header is None or not option or "\r" in option or "\n" in option:
            return -1
        self._set_options(run, header, [*self._options(run, header), option])
        return 1

    @script_function(routes=MESSAGE)
    def list_hdr_remove_option(
        self, run: Run, hdr_name: Annotated[HeaderName, Fixup(HeaderName, "string")], option: str
    ) -> int:
        """Remove the option, its last mention in each header of that name; a list that is empty then goes as a whole.

        Returns -1 when no header lists it.
        """
        wanted = option.strip().lower()
        result = -1
        for header in hdr_name.all(run.msg):
            items = self._options(run, header)
            for at in range(len(items) - 1, -1, -1):
                if items[at].lower() == wanted:
                    self._set_options(run, header, items[:at] + items[at + 1 :])
                    result = 1
                    break
        return result

    def _options(self, run: Run, header: Header) -> list[str]:
        for key in (self._lists_key(run), LISTS):
            changed = run.ctx.get(key)
            if isinstance(changed, dict) and header.start in changed:
                kept: list[str] = changed[header.start]
                return kept
        return [item.strip() for item in header.value.split(",") if item.strip()]

    def _set_options(self, run: Run, header: Header, items: list[str]) -> None:
        changed = run.ctx.setdefault(self._lists_key(run), {})
        if isinstance(changed, dict):
            changed[header.start] = items
        line = f"{header.name}: {', '.join(items)}\r\n" if items else ""
        # A function, because the later of two notes on one range counts only when it is not plainly empty.
        run.edits.replace(header.start, header.end, lambda in_socket, out_socket: line)

    @staticmethod
    def _lists_key(run: Run) -> str:
        """What a branch route changes is seen in that branch only."""
        return f"{LISTS}.{run.branch_index}" if run.kind == BRANCH else LISTS

    # --- taking apart

    @script_function(routes=MESSAGE)
    def get_glob_headers_values(
        self,
        run: Run,
        hdr_name_glob: Annotated[Glob, Fixup(Glob, "string")],
        hdr_names_avp: VarRef,
        hdr_vals_avp: VarRef,
    ) -> int:
        """Put the names and the values of the headers that match a shell pattern into two AVPs, in parallel.

        Returns -1 when no header matches.
        """
        result = -1
        for header in run.msg.headers:
            if hdr_name_glob.matches(header.name):
                hdr_names_avp.set(run, header.name)
                hdr_vals_avp.set(run, header.value)
                result = 1
        return result

    @script_function(routes=MESSAGE)
    def sip_to_json(self, run: Run, out_var: VarRef) -> int:
        """Put the message as a JSON object into a variable: "first_line", "headers" (name: [values]) and "body"."""
        msg = run.msg
        headers: dict[str, list[str]] = {}
        for header in msg.headers:
            headers.setdefault(header.name, []).append(_printable(header.value))
        shown: dict[str, object] = {"first_line": _printable(msg.head[: msg.head.index("\r\n")]), "headers": headers}
        body = body_now(run).content
        if body:
            shown["body"] = body.decode("utf-8", "replace")
        out_var.set(run, json.dumps(shown, ensure_ascii=False, separators=(",", ":")))
        return 1

    # --- details

    def _lines(self, text: str) -> str | None:
        lines = header_lines(text)
        if lines is None:
            self.core.log.error("sipmsgops: %r is no header", text[:80])
        return lines


def _printable(text: str) -> str:
    """Text that JSON can carry: bytes that are no UTF-8 become U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
