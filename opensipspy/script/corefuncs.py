"""The core's script functions: flags, the Request-URI, the destination set, sending, events, logging.

What acts on other parts of the server (key-value stores, blacklists, events, sockets) is in corefuncs_server.py.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final

from opensipspy.script import runtime, uris
from opensipspy.script.declare import Catalogue, FunctionDecl, ParamDecl, Waits
from opensipspy.script.kinds import ALL
from opensipspy.script.run import (
    Q_UNSPECIFIED,
    VIA_FORCE_RPORT,
    VIA_LOCAL_RPORT,
    VIA_REPLY_TO_VIA,
    Branch,
    Run,
    Value,
    VarRef,
)
from opensipspy.script.runtime import L_INFO, report
from opensipspy.script.services import ScriptServices
from opensipspy.script.variables_branch import add_branch, main_branch, set_main_branch
from opensipspy.script.varsyntax import FormatString, parse_format_text
from opensipspy.sip import ParseError, parse_name_addr_list, parse_uri

VIA_WORDS: Final = ("force-rport", "add-local-rport", "reply-to-via", "force-tcp-alias")
_SERIAL: Final = "core.serial"


def flag_words(text: str, allowed: tuple[str, ...]) -> frozenset[str]:
    """A comma-separated list of words as a set. Raises ValueError for a word that is not among `allowed`."""
    words = frozenset(word.strip() for word in text.split(",") if word.strip())
    for word in words:
        if word not in allowed:
            raise ValueError(f"unknown flag {word!r}; there are {', '.join(allowed)}")
    return words


class CoreFunctions:
    """The functions, bound to one server; `register` makes them known."""

    def __init__(self, services: ScriptServices) -> None:
        self.services: ScriptServices = services

    # -- flags

    def setflag(self, run: Run, flag: int) -> int:
        """Set a message flag; it stays with the transaction."""
        run.msg_flags |= flag
        return 1

    def resetflag(self, run: Run, flag: int) -> int:
        """Clear a message flag."""
        run.msg_flags &= ~flag
        return 1

    def isflagset(self, run: Run, flag: int) -> int:
        """True when the message flag is set."""
        return 1 if run.msg_flags & flag else -1

    def setbflag(self, run: Run, flag: int, branch_idx: int | None = None) -> int:
        """Set a flag of a branch: 0 is the Request-URI's, 1 the first added one."""
        if not branch_idx:
            run.branch_flags |= flag
            return 1
        branch = self._branch(run, branch_idx - 1)
        if branch is None:
            return -1
        branch.flags |= flag
        return 1

    def resetbflag(self, run: Run, flag: int, branch_idx: int | None = None) -> int:
        """Clear a flag of a branch."""
        if not branch_idx:
            run.branch_flags &= ~flag
            return 1
        branch = self._branch(run, branch_idx - 1)
        if branch is None:
            return -1
        branch.flags &= ~flag
        return 1

    def isbflagset(self, run: Run, flag: int, branch_idx: int | None = None) -> int:
        """True when the flag of the branch is set."""
        if not branch_idx:
            return 1 if run.branch_flags & flag else -1
        branch = self._branch(run, branch_idx - 1)
        return 1 if branch is not None and branch.flags & flag else -1

    def _branch(self, run: Run, index: int) -> Branch | None:
        if 0 <= index < len(run.branches):
            return run.branches[index]
        report(run, f"there is no branch {index}")
        return None

    # -- Request-URI and destination

    def _rewrite(
        self,
        run: Run,
        user: str | None = None,
        password: str | None = None,
        host: str | None = None,
        port: str | None = None,
    ) -> int:
        try:
            uris.change(run, user, password, host, port)
        except ValueError as error:
            report(run, f"the Request-URI stays as it is: {error}")
            return -1
        return 1

    def seturi(self, run: Run, uri: str | None) -> int:
        """Replace the Request-URI."""
        if not uri:
            return -1
        run.ruri = uri
        return 1

    def sethost(self, run: Run, host: str | None) -> int:
        """Replace the host of the Request-URI."""
        return self._rewrite(run, host=host) if host else -1

    def sethostport(self, run: Run, hostport: str | None) -> int:
        """Replace host and port of the Request-URI; without a port it has none afterwards."""
        if not hostport:
            return -1
        close = hostport.rfind("]")
        colon = hostport.find(":", close + 1)
        if colon < 0:
            return self._rewrite(run, host=hostport, port="")
        return self._rewrite(run, host=hostport[:colon], port=hostport[colon + 1 :])

    def setport(self, run: Run, port: str | None) -> int:
        """Replace the port of the Request-URI; an empty text removes it."""
        return self._rewrite(run, port=port or "")

    def setuser(self, run: Run, user: str | None) -> int:
        """Replace the user of the Request-URI; an empty text removes it."""
        return self._rewrite(run, user=user or "")

    def setuserpass(self, run: Run, pass_: str | None) -> int:
        """Replace "user:password" of the Request-URI."""
        user, _, password = (pass_ or "").partition(":")
        return self._rewrite(run, user=user, password=password)

    def prefix(self, run: Run, prefix: str | None) -> int:
        """Put a text before the user of the Request-URI."""
        uri = uris.parse(run.ruri)
        if uri is None or prefix is None:
            return -1
        return self._rewrite(run, user=prefix + uri.user)

    def strip(self, run: Run, n: int) -> int:
        """Take `n` characters off the front of the user of the Request-URI; all of it when it is shorter."""
        uri = uris.parse(run.ruri)
        if uri is None or n < 0:
            return -1
        return self._rewrite(run, user=uri.user[n:])

    def strip_tail(self, run: Run, n: int) -> int:
        """Take `n` characters off the end of the user of the Request-URI; all of it when it is shorter."""
        uri = uris.parse(run.ruri)
        if uri is None or n < 0:
            return -1
        return self._rewrite(run, user=uri.user[: max(len(uri.user) - n, 0)])

    def revert_uri(self, run: Run) -> int:
        """Make the Request-URI what was received."""
        run.ruri = run.msg.ruri
        return 1

    def setdsturi(self, run: Run, uri: str | None) -> int:
        """Send to another URI than the Request-URI, which stays as it is."""
        if not uri:
            return -1
        try:
            parse_uri(uri)
        except ValueError as error:
            report(run, f"{uri!r} is no destination: {error}")
            return -1
        run.dst_uri = uri
        return 1

    def resetdsturi(self, run: Run) -> int:
        """Send to the Request-URI again."""
        run.dst_uri = ""
        return 1

    def isdsturiset(self, run: Run) -> int:
        """True when a destination URI is set."""
        return 1 if run.dst_uri else -1

    # -- the destination set

    def append_branch_old(self, run: Run, uri: str | None = None, qvalue: int | None = None) -> int:
        """Add a branch; without a URI the Request-URI with its attributes, which are reset."""
        main = main_branch(run)
        q = Q_UNSPECIFIED if qvalue is None else qvalue
        branch = Branch(uri or main.uri, main.dst_uri, q, main.path, main.flags, main.socket)
        if uri:
            return 1 if add_branch(run, branch) else -1
        if qvalue is None:
            branch.q = main.q
        if not add_branch(run, branch):
            return -1
        set_main_branch(run, Branch(main.uri))
        return 1

    def append_msg_branch(
        self, run: Run, uri: str | None, qvalue: int | None = None, flags: frozenset[str] | None = None
    ) -> int:
        """Add a branch for a URI; with "inherite" it takes over the attributes of the Request-URI."""
        if not uri:
            report(run, "a new branch needs a URI")
            return -1
        q = Q_UNSPECIFIED if qvalue is None else qvalue
        if not flags:
            return 1 if add_branch(run, Branch(uri, q=q)) else -1
        main = main_branch(run)
        if qvalue is None:
            q = main.q
        return 1 if add_branch(run, Branch(uri, main.dst_uri, q, main.path, main.flags, main.socket)) else -1

    def remove_msg_branch(self, run: Run, branch_idx: int) -> int:
        """Remove an added branch, counted from 0."""
        if self._branch(run, branch_idx) is None:
            return -1
        del run.branches[branch_idx]
        return 1

    def _take(self, run: Run, index: int | None) -> Branch | None:
        return main_branch(run) if index is None or index < 0 else self._branch(run, index)

    def _put(self, run: Run, index: int | None, branch: Branch) -> None:
        if index is None or index < 0:
            set_main_branch(run, branch)
        else:
            run.branches[index] = branch

    def move_msg_branch(
        self, run: Run, src_idx: int | None = None, dst_idx: int | None = None, keep: str | None = None
    ) -> int:
        """Copy a branch over another; the source goes unless `keep` is given. No index, or one below 0, is the
        Request-URI."""
        if src_idx == dst_idx:
            return 1
        source = self._take(run, src_idx)
        if source is None or self._take(run, dst_idx) is None:
            return -1
        copy = Branch(source.uri, source.dst_uri, source.q, source.path, source.flags, source.socket)
        copy.attrs = dict(source.attrs) if source.attrs else None
        self._put(run, dst_idx, copy)
        if keep is None and src_idx is not None and src_idx >= 0:
            del run.branches[src_idx]
        return 1

    def swap_msg_branches(self, run: Run, br1_idx: int | None = None, br2_idx: int | None = None) -> int:
        """Exchange two branches. No index, or one below 0, is the Request-URI."""
        if br1_idx == br2_idx:
            return 1
        one, two = self._take(run, br1_idx), self._take(run, br2_idx)
        if one is None or two is None:
            return -1
        self._put(run, br1_idx, two)
        self._put(run, br2_idx, one)
        return 1

    def serialize_branches(self, run: Run, clear_previous: int, keep_order: int | None = None) -> int:
        """Put the destination set aside in groups to be tried one after the other by next_branches(): by falling q,
        or with `keep_order` each branch alone in the order they have."""
        if not run.branches:
            return 1
        everything = [main_branch(run), *run.branches]
        if not keep_order and all(branch.q == everything[0].q for branch in everything):
            return 1
        groups: list[list[Branch]] = []
        if keep_order:
            groups = [[branch] for branch in everything]
        else:
            for branch in sorted(everything, key=lambda entry: -entry.q):
                if groups and groups[-1][0].q == branch.q:
                    groups[-1].append(branch)
                else:
                    groups.append([branch])
        waiting = run.ctx.get(_SERIAL)
        if not clear_previous and isinstance(waiting, list):
            groups += waiting
        run.ctx[_SERIAL] = groups
        run.branches.clear()
        return 1

    def next_branches(self, run: Run) -> int:
        """Make the next group the destination set. Returns 1 when more wait, 2 for the last one, -1 when there is none.

        A branch with a Path goes to the first hop of it (RFC 3327 §5.3).
        """
        groups = run.ctx.get(_SERIAL)
        if not isinstance(groups, list) or not groups:
            return -1
        group: list[Branch] = groups.pop(0)
        run.branches.clear()
        first = group[0]
        if first.path:
            try:
                first.dst_uri = parse_name_addr_list(first.path)[0].uri
            except ParseError as error:
                report(run, f"the Path of {first.uri} cannot be read: {error}")
                return -1
        set_main_branch(run, first)
        run.branches.extend(group[1:])
        return 1 if groups else 2

    # -- Via and sockets

    def force_rport(self, run: Run) -> int:
        """Answer to the port the request came from (RFC 3581), asked for or not."""
        run.via_flags |= VIA_FORCE_RPORT
        run.msg.force_rport = True
        return 1

    def add_local_rport(self, run: Run) -> int:
        """Put rport into our own Via."""
        run.via_flags |= VIA_LOCAL_RPORT
        return 1

    def set_via_handling(self, run: Run, flags: frozenset[str]) -> int:
        """Any of "force-rport", "add-local-rport", "reply-to-via" and "force-tcp-alias"."""
        if "force-rport" in flags:
            self.force_rport(run)
        if "add-local-rport" in flags:
            run.via_flags |= VIA_LOCAL_RPORT
        if "reply-to-via" in flags:
            run.via_flags |= VIA_REPLY_TO_VIA
        if "force-tcp-alias" in flags:
            self.force_tcp_alias(run)
        return 1

    def force_tcp_alias(self, run: Run, port_alias: int | None = None) -> int:
        """Reuse the request's connection for requests to its source address and this port, the Via's by default."""
        if run.msg.source.connection == 0:
            return 1
        port = port_alias
        if port is None:
            try:
                port = run.msg.via.port
            except ParseError:
                return -1
        return self.services.tcp_alias(run, port or 5060)

    def set_advertised_address(self, run: Run, adv_addr: str | None) -> int:
        """The address that our Via and Record-Route show for this message."""
        if not adv_addr or not uris.is_safe(adv_addr):
            return -1
        run.advertised_address = uris.bracketed(adv_addr)
        return 1

    def set_advertised_port(self, run: Run, adv_port: str | None) -> int:
        """The port that our Via and Record-Route show for this message."""
        if not adv_port or not (adv_port.isascii() and adv_port.isdigit()) or not 0 < int(adv_port) < 65536:
            report(run, f"{adv_port!r} is not a port")
            return -1
        run.advertised_port = int(adv_port)
        return 1

    def force_send_socket(self, run: Run, socket: str) -> int:
        """Send from this socket."""
        found = self.services.find_socket(socket)
        if found is None:
            report(run, f"force_send_socket(): no listening socket matches {socket!r}")
            return -1
        run.socket_out = found
        return 1

    def socket_belongs_to_bond(self, run: Run, socket: str | None, bond: str | None) -> int:
        """True when the socket is a member of the bond."""
        return 1 if socket and bond and self.services.socket_in_bond(socket, bond) else -1

    def is_myself(self, run: Run, host: str | None, port: int | None = None) -> int:
        """True when host[:port] is this server: a socket, an advertised address or an alias."""
        return 1 if host and self.services.is_myself(host, port or 0, 0) else -1

    # -- sending

    def forward(self, run: Run, destination: str | None = None) -> int | Awaitable[int]:
        """Send the request on without a transaction; by default to its destination URI or Request-URI."""
        return self.services.forward(run, destination or "")

    def send(self, run: Run, destination: str | None, headers: str | None = None) -> int | Awaitable[int]:
        """Send the message as it was received to "[proto:]host[:port]", with more header lines."""
        return self.services.send(run, destination, headers or "") if destination else -1

    # -- values

    def pv_printf(self, run: Run, pv: VarRef, fmt_str: str | None) -> int:
        """Write a text into a variable."""
        pv.set(run, fmt_str if fmt_str is not None else "<null>")
        return 1

    def avp_print(self, run: Run) -> int:
        """Log all AVPs, top of each stack first, at information level."""
        log = self.services.log
        for name, stack in run.avps.items():
            for value in reversed(stack):
                log(L_INFO, f"avp {name} = {value!r}")
        return 1

    def construct_uri(
        self,
        run: Run,
        proto: str | None,
        user: str | None,
        domain: str | None,
        port: str | None,
        extra: str | None,
        result: VarRef,
    ) -> int:
        """Put "proto:user@domain:port;extra" together and push it on an AVP."""
        if not proto or not domain:
            return -1
        text = f"{proto}:"
        if user:
            text += f"{user}@"
        text += uris.bracketed(domain)
        if port:
            text += f":{port}"
        if extra:
            text += f";{extra.removeprefix(';')}"
        if not uris.is_safe(text):
            report(run, "white space or a forbidden character in a part of a URI")
            return -1
        result.set(run, text)
        return 1

    def get_timestamp(self, run: Run, sec_avp: VarRef, usec_avp: VarRef) -> int:
        """Push the seconds since 1970 and the microseconds of the second on two AVPs."""
        now = self.services.time()
        seconds = int(now)
        sec_avp.set(run, seconds)
        usec_avp.set(run, int((now - seconds) * 1_000_000))
        return 1

    def script_trace(
        self,
        run: Run,
        log_level: int | None = None,
        pv_format_string: FormatString | None = None,
        info: str | None = None,
    ) -> int:
        """Log each statement that this message reaches from here on, at `log_level`, with the values of a format.

        It ends with the message's routes, or with script_trace() without parameters. Scripts that do not mention the
        function pay nothing for it.
        """
        if log_level is None:
            run.ctx.pop(runtime.TRACE, None)
        else:
            run.ctx[runtime.TRACE] = runtime.Trace(log_level, pv_format_string, info or "")
        return 1

    # -- the table

    def register(self, catalogue: Catalogue) -> None:
        """Make all of them known. Flags named here get their bits from this catalogue."""

        def flag(kind: str) -> Callable[[str], int]:
            return lambda name: catalogue.flags.mask(kind, name)

        message_flag = (ParamDecl("flag", static=True, fixup=prepared(flag("message"))),)
        branch_flag = (
            ParamDecl("flag", static=True, fixup=prepared(flag("branch"))),
            ParamDecl("branch_idx", "int", optional=True),
        )

        def add(
            name: str,
            call: Callable[..., int | Awaitable[int]],
            params: tuple[ParamDecl, ...] = (),
            waits: Waits = "no",
        ) -> None:
            catalogue.add_function(
                FunctionDecl(name, "core", params, ALL, call, waits, doc=(call.__doc__ or "").strip())
            )

        text, number, avp = _text, _number, _avp
        add("setflag", self.setflag, message_flag)
        add("resetflag", self.resetflag, message_flag)
        add("isflagset", self.isflagset, message_flag)
        add("setbflag", self.setbflag, branch_flag)
        add("resetbflag", self.resetbflag, branch_flag)
        add("isbflagset", self.isbflagset, branch_flag)
        add("seturi", self.seturi, (text("uri"),))
        add("sethost", self.sethost, (text("host"),))
        add("sethostport", self.sethostport, (text("hostport"),))
        add("setport", self.setport, (text("port"),))
        add("setuser", self.setuser, (text("user"),))
        add("setuserpass", self.setuserpass, (text("pass"),))
        add("prefix", self.prefix, (text("prefix"),))
        add("strip", self.strip, (number("n"),))
        add("strip_tail", self.strip_tail, (number("n"),))
        add("revert_uri", self.revert_uri)
        add("setdsturi", self.setdsturi, (text("uri"),))
        add("resetdsturi", self.resetdsturi)
        add("isdsturiset", self.isdsturiset)
        q_value = ParamDecl("qvalue", optional=True, fixup=prepared(uris.parse_q))
        add("append_branch_old", self.append_branch_old, (text("uri", True), q_value))
        add(
            "append_msg_branch",
            self.append_msg_branch,
            (
                text("uri"),
                q_value,
                ParamDecl("flags", optional=True, fixup=prepared(_words(("inherite",))), flags=("inherite",)),
            ),
        )
        add("remove_msg_branch", self.remove_msg_branch, (number("branch_idx"),))
        add(
            "move_msg_branch",
            self.move_msg_branch,
            (number("src_idx", True), number("dst_idx", True), text("keep", True)),
        )
        add("swap_msg_branches", self.swap_msg_branches, (number("br1_idx", True), number("br2_idx", True)))
        add("serialize_branches", self.serialize_branches, (number("clear_previous"), number("keep_order", True)))
        add("next_branches", self.next_branches)
        add("force_rport", self.force_rport)
        add("add_local_rport", self.add_local_rport)
        add(
            "set_via_handling",
            self.set_via_handling,
            (ParamDecl("flags", fixup=prepared(_words(VIA_WORDS)), flags=VIA_WORDS),),
        )
        add("force_tcp_alias", self.force_tcp_alias, (number("port_alias", True),))
        add("set_advertised_address", self.set_advertised_address, (text("adv_addr"),))
        add("set_advertised_port", self.set_advertised_port, (text("adv_port"),))
        add("force_send_socket", self.force_send_socket, (ParamDecl("socket", fixup=prepared(socket_name)),))
        add("socket_belongs_to_bond", self.socket_belongs_to_bond, (text("socket"), text("bond")))
        add("is_myself", self.is_myself, (text("host"), number("port", True)))
        add("forward", self.forward, (ParamDecl("destination", optional=True, fixup=prepared(destination)),), "maybe")
        add("send", self.send, (ParamDecl("destination", fixup=prepared(destination)), text("headers", True)), "maybe")
        add("pv_printf", self.pv_printf, (ParamDecl("pv", "var"), text("fmt_str")))
        add("avp_print", self.avp_print)
        add(
            "construct_uri",
            self.construct_uri,
            (text("proto"), text("user", True), text("domain"), text("port", True), text("extra", True), avp("result")),
        )
        add("get_timestamp", self.get_timestamp, (avp("sec_avp"), avp("usec_avp")))
        add(
            "script_trace",
            self.script_trace,
            (
                number("log_level", True),
                ParamDecl(
                    "pv_format_string",
                    optional=True,
                    no_expand=True,
                    fixup=prepared(lambda text: parse_format_text(text, catalogue)),
                    # What a variable holds may come from a message: it names no other variable.
                    at_call=prepared(lambda text: parse_format_text(text.replace("$", "$$"), catalogue)),
                ),
                ParamDecl("info", optional=True, static=True),
            ),
        )


def _text(name: str, optional: bool = False) -> ParamDecl:
    return ParamDecl(name, "string", optional)


def _number(name: str, optional: bool = False) -> ParamDecl:
    return ParamDecl(name, "int", optional)


def _avp(name: str, optional: bool = False) -> ParamDecl:
    return ParamDecl(name, "var", optional, must_be="avp")


def prepared(fixup: Callable[[str], object]) -> Callable[[Value], object]:
    """A fixup for a text as one for any value: a number is its digits, NULL is a ValueError."""

    def apply(value: Value) -> object:
        if value is None:
            raise ValueError("a value is needed, not NULL")
        return fixup(value if isinstance(value, str) else str(value))

    return apply


def _words(allowed: tuple[str, ...]) -> Callable[[str], frozenset[str]]:
    return lambda text: flag_words(text, allowed)


def destination(text: str) -> str:
    """Check "[proto:]host[:port]" (an IPv6 host in brackets) and give it back. Raises ValueError."""
    proto, host, port = split_destination(text)
    del proto
    if not host:
        raise ValueError(f"{text!r} names no host")
    if port and not 0 < port < 65536:
        raise ValueError(f"{text!r}: {port} is not a port")
    return text


def socket_name(text: str) -> str:
    """Check that a text can name a socket, by its address or its tag; which one shows when the sockets are open."""
    if not split_destination(text)[1]:
        raise ValueError(f"{text!r} names no socket")
    return text


def split_destination(text: str) -> tuple[str, str, int]:
    """ "[proto:]host[:port]" in parts: "" and 0 for what is left out, the host without brackets. Raises ValueError."""
    proto = ""
    rest = text.strip()
    if rest.lower().startswith(("sip:", "sips:")):
        uri = parse_uri(rest)
        return uri.transport, uri.host, uri.port
    head, colon, tail = rest.partition(":")
    if colon and head.lower() in ("udp", "tcp", "tls", "sctp", "ws", "wss"):
        proto, rest = head.lower(), tail
    port = ""
    if rest.startswith("["):
        host, closing, after = rest[1:].partition("]")
        if not closing or (after and not after.startswith(":")):
            raise ValueError(f"{text!r} is not a destination")
        port = after[1:]
        ipaddress.IPv6Address(host)
    else:
        host, _, port = rest.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        raise ValueError(f"{port!r} is not a port")
    return proto, host, int(port or 0)


__all__ = ["CoreFunctions", "destination", "flag_words", "prepared", "split_destination"]
