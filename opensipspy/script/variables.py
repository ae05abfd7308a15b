"""The core's pseudo-variables that show the message: start line, headers, addresses, time, and the script's own state.

`$branch*` and `$msg.branch*` are in variables_branch.py, bodies and SDP in variables_body.py. A variable that has
nothing to show is NULL; a message that cannot be read that far is no error either.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from opensipspy import sip
from opensipspy.script import kinds, uris
from opensipspy.script.declare import Catalogue, VariableDecl, VariableGet, VariableSet
from opensipspy.script.run import INDEX_ALL, INDEX_APPEND, Index, Run, Value
from opensipspy.script.runtime import L_WARN, report
from opensipspy.script.services import ScriptServices
from opensipspy.sip import Message, NameAddr, Uri, parse_name_addr, parse_name_addr_list, proto_name, proto_number

DELIMITER: Final = ", "
MAX_INDEX: Final = 1 << 20

SOCKET_FIELDS: Final = ("ip", "port", "proto", "advertised_ip", "advertised_port", "tag", "anycast", "af")
CONTACT_FIELDS: Final = ("name", "uri", "q", "expires", "methods", "received", "params")
PROXY_FIELDS: Final = ("src_ip", "src_port", "dst_ip", "dst_port", "af")

# `$C(xy)`: foreground and background of a terminal (ECMA-48 SGR).
_COLOURS: Final = {"s": 0, "r": 1, "g": 2, "y": 3, "b": 4, "p": 5, "c": 6, "w": 7}


def pick(values: list[str], index: Index) -> Value:
    """One of several values: None or 0 the first, negative from the end, INDEX_ALL all of them; NULL outside."""
    if index is None:
        return values[0] if values else None
    if isinstance(index, str):
        return DELIMITER.join(values) if values and index == INDEX_ALL else None
    return values[index] if -len(values) <= index < len(values) else None


def or_null(text: str | None) -> Value:
    """NULL for an empty text."""
    return text or None


def uri_port(uri: Uri) -> int:
    """The port of a URI, the transport's default when it names none."""
    if uri.port:
        return int(uri.port)
    return 5061 if uri.scheme == "sips" or uri_proto(uri) in ("tls", "wss") else 5060


def uri_proto(uri: Uri) -> str:
    """The transport of a URI in lower case; without a parameter the default of its scheme (RFC 3261 §19.1.2)."""
    if uri.transport:
        return str(uri.transport).lower()
    return "tls" if uri.scheme == "sips" else "udp"


def colour(name: str) -> str:
    """The escape sequence for the two letters of `$C(..)`: foreground, background. Raises ValueError."""
    if len(name) != 2:
        raise ValueError("two letters are needed, for foreground and background")
    foreground, background = name[0], name[1]
    codes: list[str] = []
    if foreground == "x":
        codes.append("39")
    elif foreground.lower() in _COLOURS:
        codes.append(f"{'1' if foreground.isupper() else '0'};{30 + _COLOURS[foreground.lower()]}")
    else:
        raise ValueError(f"unknown foreground {foreground!r}")
    if background == "x":
        codes.append("49")
    elif background.lower() in _COLOURS:
        codes.append(str(40 + _COLOURS[background.lower()]))
    else:
        raise ValueError(f"unknown background {background!r}")
    return f"\x1b[{';'.join(codes)}m"


def body_text(body: bytes) -> str:
    return body.decode("utf-8", "surrogateescape")


class CoreVariables:
    """The getters and setters, bound to one server."""

    def __init__(self, services: ScriptServices, catalogue: Catalogue) -> None:
        self.services: ScriptServices = services
        self.catalogue: Catalogue = catalogue
        self.uris: uris.UriCache = uris.UriCache()
        self._started: int = int(services.time())
        self._messages: int = 0

    def get_colour(self, run: Run, name: object, index: Index) -> Value:
        # Without xlog_force_color a log stays free of escape sequences, whoever reads it.
        settings = getattr(run.program, "globals", None)
        return str(name) if getattr(settings, "xlog_force_color", False) else ""

    # -- Request-URI and destination

    def get_ruri(self, run: Run, name: object, index: Index) -> Value:
        return run.ruri or None

    def set_ruri(self, run: Run, name: object, index: Index, value: Value) -> None:
        if value is None or value == "":
            return report(run, "a Request-URI cannot be NULL")
        run.ruri = str(value)
        return None

    def _change(self, run: Run, user: str | None = None, host: str | None = None, port: str | None = None) -> None:
        try:
            uris.change(run, user, None, host, port)
        except ValueError as error:
            report(run, f"the Request-URI stays as it is: {error}")

    def _change_destination(self, run: Run, host: str | None = None, port: str | None = None) -> None:
        try:
            uris.change_destination(run, host, port)
        except ValueError as error:
            report(run, f"the destination URI stays as it is: {error}")

    def _ruri(self, run: Run) -> Uri | None:
        return self.uris.parse(run.ruri) if run.ruri else None

    def get_ruri_user(self, run: Run, name: object, index: Index) -> Value:
        uri = self._ruri(run)
        return or_null(uri.user) if uri is not None else None

    def set_ruri_user(self, run: Run, name: object, index: Index, value: Value) -> None:
        self._change(run, user="" if value is None else str(value))

    def get_ruri_host(self, run: Run, name: object, index: Index) -> Value:
        uri = self._ruri(run)
        return or_null(uri.host_text) if uri is not None else None

    def set_ruri_host(self, run: Run, name: object, index: Index, value: Value) -> None:
        if value is None or value == "":
            return report(run, "the host of a Request-URI cannot be NULL")
        self._change(run, host=str(value))
        return None

    def get_ruri_port(self, run: Run, name: object, index: Index) -> Value:
        uri = self._ruri(run)
        return uri_port(uri) if uri is not None else None

    def set_ruri_port(self, run: Run, name: object, index: Index, value: Value) -> None:
        self._change(run, port="" if value is None else str(value))

    def get_ruri_proto(self, run: Run, name: object, index: Index) -> Value:
        uri = self._ruri(run)
        return uri_proto(uri) if uri is not None else None

    def get_ruri_q(self, run: Run, name: object, index: Index) -> Value:
        return run.q

    def set_ruri_q(self, run: Run, name: object, index: Index, value: Value) -> None:
        if not isinstance(value, int):
            return report(run, "$ru_q needs an integer")
        run.q = min(value, 1000)
        return None

    def get_original(self, run: Run, name: object, index: Index) -> Value:
        return or_null(run.msg.ruri)

    def _original(self, run: Run) -> Uri | None:
        return self.uris.parse(run.msg.ruri) if run.msg.ruri else None

    def get_original_user(self, run: Run, name: object, index: Index) -> Value:
        uri = self._original(run)
        return or_null(uri.user) if uri is not None else None

    def get_original_host(self, run: Run, name: object, index: Index) -> Value:
        uri = self._original(run)
        return or_null(uri.host_text) if uri is not None else None

    def get_original_port(self, run: Run, name: object, index: Index) -> Value:
        uri = self._original(run)
        return uri_port(uri) if uri is not None else None

    def get_original_proto(self, run: Run, name: object, index: Index) -> Value:
        uri = self._original(run)
        return uri_proto(uri) if uri is not None else None

    def get_dst(self, run: Run, name: object, index: Index) -> Value:
        return run.dst_uri or None

    def set_dst(self, run: Run, name: object, index: Index, value: Value) -> None:
        run.dst_uri = "" if value is None else str(value)

    def get_dst_host(self, run: Run, name: object, index: Index) -> Value:
        uri = self.uris.parse(run.dst_uri) if run.dst_uri else None
        return or_null(uri.host_text) if uri is not None else None

    def set_dst_host(self, run: Run, name: object, index: Index, value: Value) -> None:
        if value is None or value == "":
            return report(run, "the host of a destination cannot be NULL")
        self._change_destination(run, host=str(value))
        return None

    def get_dst_port(self, run: Run, name: object, index: Index) -> Value:
        uri = self.uris.parse(run.dst_uri) if run.dst_uri else None
        return uri_port(uri) if uri is not None else None

    def set_dst_port(self, run: Run, name: object, index: Index, value: Value) -> None:
        self._change_destination(run, port="" if value is None else str(value))

    def get_dst_proto(self, run: Run, name: object, index: Index) -> Value:
        uri = self.uris.parse(run.dst_uri) if run.dst_uri else None
        return uri_proto(uri) if uri is not None else None

    def get_path(self, run: Run, name: object, index: Index) -> Value:
        return run.path or None

    def get_destination_set(self, run: Run, name: object, index: Index) -> Value:
        """The destination set as the Contact header of a 300 reply would show it: the Request-URI when the script has
        changed it, and the branches that it has added."""
        if not run.msg.is_request:
            return None
        shown = [uris.contact(run.ruri, run.q)] if run.ruri and run.ruri != run.msg.ruri else []
        shown += [uris.contact(branch.uri, branch.q) for branch in run.branches]
        return "Contact: " + DELIMITER.join(shown) if shown else None

    # -- start line and message

    def get_method(self, run: Run, name: object, index: Index) -> Value:
        return run.msg.method or None

    def get_status(self, run: Run, name: object, index: Index) -> Value:
        return None if run.msg.is_request else run.msg.status

    def get_reason(self, run: Run, name: object, index: Index) -> Value:
        return None if run.msg.is_request else run.msg.reason

    def get_is_request(self, run: Run, name: object, index: Index) -> Value:
        return 1 if run.msg.is_request else 0

    def get_type(self, run: Run, name: object, index: Index) -> Value:
        return "request" if run.msg.is_request else "reply"

    def get_buffer(self, run: Run, name: object, index: Index) -> Value:
        return f"{run.msg.head}\r\n{body_text(run.msg.body)}"

    def get_length(self, run: Run, name: object, index: Index) -> Value:
        return run.msg.data_len

    def get_number(self, run: Run, name: object, index: Index) -> Value:
        """`$mi`: one number for each message that is asked for it."""
        number = run.ctx.get("core.mi")
        if not isinstance(number, int):
            self._messages += 1
            number = run.ctx["core.mi"] = self._messages
        return number

    def get_flags(self, run: Run, name: object, index: Index) -> Value:
        return " ".join(self.catalogue.flags.names("message", run.msg_flags))

    def get_branch_flags(self, run: Run, name: object, index: Index) -> Value:
        return " ".join(self.catalogue.flags.names("branch", run.branch_flags))

    def get_flag(self, run: Run, mask: Any, index: Index) -> Value:
        return 1 if run.msg_flags & mask else 0

    def set_flag(self, run: Run, mask: Any, index: Index, value: Value) -> None:
        if not isinstance(value, int):
            return report(run, "$msg.flag() needs an integer")
        if value:
            run.msg_flags |= mask
        else:
            run.msg_flags &= ~mask
        return None

    def message_flag(self, name: str) -> object:
        return self.catalogue.flags.mask("message", name)

    # -- addresses

    def get_source_ip(self, run: Run, name: object, index: Index) -> Value:
        return run.msg.source.address or None

    def get_source_port(self, run: Run, name: object, index: Index) -> Value:
        return run.msg.source.port

    def _socket_field(self, socket: sip.Socket, field: str | None) -> Value:
        if field is None or field == "forced":
            return socket.text
        if socket.members is not None:
            return None  # which of a bond's sockets it is shows when the message leaves
        if field == "ip":
            return socket.address
        if field == "port":
            return socket.port
        if field == "proto":
            return proto_name(socket.proto)
        if field == "advertised_ip":
            return or_null(socket.advertised_address)
        if field == "advertised_port":
            return socket.advertised_port or None
        if field == "tag":
            return or_null(socket.tag)
        if field == "anycast":
            return 1 if getattr(socket, "anycast", False) else 0
        return "INET6" if socket.is_v6 else "INET"

    def get_socket_in(self, run: Run, name: str | None, index: Index) -> Value:
        return self._socket_field(run.msg.socket, name)

    def get_socket_out(self, run: Run, name: str | None, index: Index) -> Value:
        if run.socket_out is not None:
            return self._socket_field(run.socket_out, name)
        return None if name == "forced" else self._socket_field(run.msg.socket, name)

    def set_socket_out(self, run: Run, name: str | None, index: Index, value: Value) -> None:
        if value is None:
            run.socket_out = None
            return
        socket = self.services.find_socket(str(value))
        if socket is None:
            report(run, f"no listening socket matches {value!r}", L_WARN)
        else:
            run.socket_out = socket

    def get_proxy_protocol(self, run: Run, name: str, index: Index) -> Value:
        """What the PROXY protocol's header said of the connection; NULL when there was none."""
        facts = self.services.proxied(run)
        return facts.get(name) if facts is not None else None

    # -- headers

    def header_name(self, name: str) -> object:
        if not name or any(c in name for c in " \t\r\n:"):
            raise ValueError("no header can have this name")
        return name

    def _values(self, run: Run, name: str) -> list[str]:
        return [header.value for header in run.msg.named(name)]

    def get_header(self, run: Run, name: str, index: Index) -> Value:
        return pick(self._values(run, name), index)

    def get_header_count(self, run: Run, name: str, index: Index) -> Value:
        return len(run.msg.named(name))

    def get_header_name(self, run: Run, name: object, index: Index) -> Value:
        return pick([header.name for header in run.msg.headers], index)

    def get_call_id(self, run: Run, name: object, index: Index) -> Value:
        return run.msg.call_id or None

    def get_cseq(self, run: Run, name: object, index: Index) -> Value:
        try:
            return str(run.msg.cseq_number)
        except sip.ParseError:
            return None

    def get_user_agent(self, run: Run, name: object, index: Index) -> Value:
        return or_null(run.msg.value(sip.H_USER_AGENT))

    def get_content_length(self, run: Run, name: object, index: Index) -> Value:
        try:
            length = run.msg.content_length
        except sip.ParseError:
            return None
        return length if length >= 0 else None

    def get_contact(self, run: Run, name: object, index: Index) -> Value:
        """The contacts as they are written, one after the other over all headers."""
        values: list[str] = []
        for header in run.msg.all(sip.H_CONTACT):
            values += uris.split_list(header.value)
        return pick(values, index)

    def get_contact_field(self, run: Run, name: str, index: Index) -> Value:
        values: list[str | None] = []
        for header in run.msg.all(sip.H_CONTACT):
            for text in uris.split_list(header.value):
                values.append(_contact_field(text, name))
        if index == INDEX_ALL:
            return DELIMITER.join(value or "" for value in values) if values else None
        at = 0 if index is None else index
        return values[at] or None if isinstance(at, int) and -len(values) <= at < len(values) else None

    def _user_of(self, address: NameAddr) -> Value:
        uri = self.uris.parse(address.uri)
        return or_null(uri.user) if uri is not None else None

    def _host_of(self, address: NameAddr) -> Value:
        uri = self.uris.parse(address.uri)
        return or_null(uri.host_text) if uri is not None else None

    def get_refer_to(self, run: Run, name: object, index: Index) -> Value:
        return _address_uri(run.msg, sip.H_REFER_TO)

    def get_rpid(self, run: Run, name: object, index: Index) -> Value:
        return _address_uri(run.msg, sip.H_RPID)

    def get_diversion(self, run: Run, name: object, index: Index) -> Value:
        return _address_uri(run.msg, sip.H_DIVERSION)

    def get_diversion_privacy(self, run: Run, name: object, index: Index) -> Value:
        return _address_param(run.msg, sip.H_DIVERSION, "privacy")

    def get_diversion_reason(self, run: Run, name: object, index: Index) -> Value:
        return _address_param(run.msg, sip.H_DIVERSION, "reason")

    def get_asserted(self, run: Run, name: object, index: Index) -> Value:
        return _address_uri(run.msg, sip.H_PAI)

    # -- Digest credentials and challenges

    def get_account(self, run: Run, name: object, index: Index) -> Value:
        """`$Au`: the authenticated user "user@realm", else the user of the From URI "user@host"."""
        credentials = _credentials(run)
        if credentials is not None and credentials.user:
            return f"{credentials.user}@{credentials.realm}" if credentials.realm else str(credentials.user)
        from_ = _address(run.msg, sip.H_FROM)
        uri = self.uris.parse(from_.uri) if from_ is not None else None
        return f"{uri.user}@{uri.host_text}" if uri is not None else None

    # -- time and process

    def get_time(self, run: Run, name: object, index: Index) -> Value:
        return int(self.services.time())

    def get_microseconds(self, run: Run, name: object, index: Index) -> Value:
        return int(self.services.time() * 1_000_000) % 1_000_000

    def get_start(self, run: Run, name: object, index: Index) -> Value:
        return self._started

    def get_time_text(self, run: Run, name: object, index: Index) -> Value:
        return datetime.fromtimestamp(self.services.time()).strftime("%a %b %e %H:%M:%S %Y")

    def get_formatted_time(self, run: Run, name: str, index: Index) -> Value:
        try:
            return or_null(datetime.fromtimestamp(self.services.time()).astimezone().strftime(name)[:127])
        except ValueError:
            return None

    def get_process(self, run: Run, name: object, index: Index) -> Value:
        return self.services.process_id()

    def get_log_level(self, run: Run, name: object, index: Index) -> Value:
        return self.services.log_level()

    def set_log_level(self, run: Run, name: object, index: Index, value: Value) -> None:
        if isinstance(value, str):
            return report(run, "$log_level needs an integer")
        self.services.set_log_level(value)
        return None

    def get_xlog_level(self, run: Run, name: object, index: Index) -> Value:
        return self.services.xlog_level()

    def set_xlog_level(self, run: Run, name: object, index: Index, value: Value) -> None:
        if isinstance(value, str):
            return report(run, "$xlog_level needs an integer")
        self.services.set_xlog_level(value)
        return None

    def get_argument(self, run: Run, name: str, index: Index) -> Value:
        return self.services.start_argument(name)

    # -- the script's own state

    def get_var(self, run: Run, name: str, index: Index) -> Value:
        return run.vars.get(name)

    def set_var(self, run: Run, name: str, index: Index, value: Value) -> None:
        run.vars[name] = value

    def get_avp(self, run: Run, name: str, index: Index) -> Value:
        stack = run.avps.get(name)
        if not stack:
            return None
        if index is None or index == 0:
            return stack[-1]
        if isinstance(index, str):
            if index == INDEX_ALL:
                return DELIMITER.join("" if value is None else str(value) for value in reversed(stack))
            return None
        # Counted from the top, which is the end of the list.
        at = -1 - index
        return stack[at] if -len(stack) <= at < len(stack) else None

    def set_avp(self, run: Run, name: str, index: Index, value: Value) -> None:
        avps = run.avps
        stack = avps.get(name)
        if index is None and value is not None:
            if stack is None:
                avps[name] = [value]
            else:
                stack.append(value)
            return None
        if index == INDEX_ALL:
            return self.replace_avp(run, name, index, value)
        if value is None:
            at = -1 - (index if isinstance(index, int) else 0)
            if stack and -len(stack) <= at < len(stack):
                del stack[at]
                if not stack:
                    del avps[name]
            return None
        if stack is None:
            if not isinstance(index, int) or index == 0:
                avps[name] = [value]
            else:
                report(run, f"$(avp({name})[{index}]) does not exist")
        elif index == INDEX_APPEND:
            stack.insert(0, value)
        elif isinstance(index, int) and -len(stack) <= -1 - index < len(stack):
            stack[-1 - index] = value
        else:
            report(run, f"$(avp({name})[{index}]) does not exist")
        return None

    def replace_avp(self, run: Run, name: str, index: Index, value: Value) -> None:
        """`:=`: the value becomes the only one."""
        if value is None:
            run.avps.pop(name, None)
        else:
            run.avps[name] = [value]

    def return_index(self, name: str) -> object:
        return int(name)

    def get_return_code(self, run: Run, name: object, index: Index) -> Value:
        return run.retcode

    def get_return(self, run: Run, name: Any, index: Index) -> Value:
        """`$return(i)`: the values after the code of `return(code, ...)`, counted from 0."""
        return run.return_values[name] if 0 <= name < len(run.return_values) else None

    def param_name(self, name: str) -> object:
        return int(name) if name.isascii() and name.isdigit() else name

    def get_param(self, run: Run, name: int | str, index: Index) -> Value:
        if isinstance(name, int):
            return run.param(name)
        if run.params:
            frame = run.params[-1]
            if isinstance(frame, dict):
                return frame.get(name)
        return None

    def _route_at(self, run: Run, index: Index) -> tuple[int, str] | None:
        stack = run.route_stack or [(run.kind, "")]
        at = index if isinstance(index, int) else 0
        at = len(stack) - 1 - at if at >= 0 else -1 - at
        return stack[at] if 0 <= at < len(stack) else None

    def get_route(self, run: Run, name: object, index: Index) -> Value:
        if index == INDEX_ALL:
            return " > ".join(_route_text(*entry) for entry in run.route_stack or [(run.kind, "")])
        entry = self._route_at(run, index)
        return _route_text(*entry) if entry is not None else None

    def get_route_name(self, run: Run, name: object, index: Index) -> Value:
        entry = self._route_at(run, index) if index != INDEX_ALL else None
        return entry[1] if entry is not None else None

    def get_route_type(self, run: Run, name: object, index: Index) -> Value:
        entry = self._route_at(run, index) if index != INDEX_ALL else None
        return kinds.kind_keyword(entry[0]) if entry is not None else None

    def get_nothing(self, run: Run, name: object, index: Index) -> Value:
        return None

    # -- the table

    def register(self) -> None:
        """Make all of them known to the catalogue."""
        plain = self._plain
        writable = self._writable
        plain("$$", lambda run, name, index: "$", inline="'$'")
        writable("$ru", self.get_ruri, self.set_ruri, aliases=("$ruri",), inline="(run.ruri or None)")
        writable("$rU", self.get_ruri_user, self.set_ruri_user, aliases=("$ruri.user",))
        writable("$rd", self.get_ruri_host, self.set_ruri_host, aliases=("$ruri.domain",))
        writable("$rp", self.get_ruri_port, self.set_ruri_port)
        plain("$rP", self.get_ruri_proto)
        writable("$ru_q", self.get_ruri_q, self.set_ruri_q)
        plain("$ou", self.get_original, aliases=("$ouri",), inline="(run.msg.ruri or None)")
        plain("$oU", self.get_original_user)
        plain("$od", self.get_original_host)
        plain("$op", self.get_original_port)
        plain("$oP", self.get_original_proto)
        writable("$du", self.get_dst, self.set_dst, aliases=("$duri",), inline="(run.dst_uri or None)")
        writable("$dd", self.get_dst_host, self.set_dst_host)
        writable("$dp", self.get_dst_port, self.set_dst_port)
        plain("$dP", self.get_dst_proto)
        plain("$path", self.get_path)
        plain("$ds", self.get_destination_set)
        plain("$rm", self.get_method, inline="run.msg.method")
        plain("$rs", self.get_status)
        plain("$rr", self.get_reason)
        plain("$msg.is_request", self.get_is_request)
        plain("$msg.type", self.get_type)
        plain("$mb", self.get_buffer)
        plain("$ml", self.get_length, inline="run.msg.data_len")
        plain("$mi", self.get_number)
        plain("$mf", self.get_flags)
        plain("$bf", self.get_branch_flags)
        writable("$msg.flag", self.get_flag, self.set_flag, name_arg=True, parse_name=self.message_flag,
                 inline="(1 if run.msg_flags & {name!r} else 0)")  # fmt: skip
        plain("$si", self.get_source_ip, aliases=("$src_ip",), inline="run.msg.source.address")
        plain("$sp", self.get_source_port, inline="run.msg.source.port")
        plain("$socket_in", self.get_socket_in, name_arg="optional", fixed=SOCKET_FIELDS)
        writable("$socket_out", self.get_socket_out, self.set_socket_out, name_arg="optional",
                 fixed=("forced", *SOCKET_FIELDS))  # fmt: skip
        plain("$proxy_protocol", self.get_proxy_protocol, name_arg=True, fixed=PROXY_FIELDS)
        plain("$hdr", self.get_header, name_arg=True, index=True, parse_name=self.header_name)
        plain("$hdrcnt", self.get_header_count, name_arg=True, parse_name=self.header_name)
        plain("$hdr_name", self.get_header_name, index=True)
        plain("$ci", self.get_call_id, inline="(run.msg.call_id or None)")
        plain("$cs", self.get_cseq)
        plain("$ua", self.get_user_agent)
        plain("$cl", self.get_content_length)
        plain("$ct", self.get_contact, index=True)
        plain("$ct.fields", self.get_contact_field, name_arg=True, index=True, fixed=CONTACT_FIELDS)
        for letter, word, kind in (("f", "from", sip.H_FROM), ("t", "to", sip.H_TO)):
            plain(f"${letter}u", _address_getter(kind, _uri_of), aliases=(f"${word}",))
            plain(f"${letter}U", _address_getter(kind, self._user_of), aliases=(f"${word}.user",))
            plain(f"${letter}d", _address_getter(kind, self._host_of), aliases=(f"${word}.domain",))
            plain(f"${letter}t", _address_getter(kind, _tag_of))
            plain(f"${letter}n", _address_getter(kind, _display_of))
        plain("$pu", _address_getter(sip.H_PPI, _uri_of))
        plain("$pU", _address_getter(sip.H_PPI, self._user_of))
        plain("$pd", _address_getter(sip.H_PPI, self._host_of))
        plain("$pn", _address_getter(sip.H_PPI, _display_of))
        plain("$rt", self.get_refer_to)
        plain("$re", self.get_rpid)
        plain("$di", self.get_diversion)
        plain("$dip", self.get_diversion_privacy)
        plain("$dir", self.get_diversion_reason)
        plain("$ai", self.get_asserted)
        plain("$Au", self.get_account)
        for variable, field in _AUTH_FIELDS.items():
            plain(variable, _credentials_getter(field))
        for field in ("algorithm", "ck", "ik", "nonce", "opaque", "qop", "realm"):
            plain(f"$challenge.{field}", _challenge_getter(field))
        plain("$Ts", self.get_time)
        plain("$Tsm", self.get_microseconds)
        plain("$TS", self.get_start)
        plain("$Tf", self.get_time_text)
        plain("$time", self.get_formatted_time, name_arg=True)
        plain("$pp", self.get_process)
        writable("$log_level", self.get_log_level, self.set_log_level)
        writable("$xlog_level", self.get_xlog_level, self.set_xlog_level)
        plain("$argv", self.get_argument, name_arg=True)
        writable("$var", self.get_var, self.set_var, name_arg=True, inline="run.vars.get({name!r})",
                 inline_store="run.vars[{name!r}]")  # fmt: skip
        writable("$avp", self.get_avp, self.set_avp, replace=self.replace_avp, name_arg=True, index=True)
        plain("$rc", self.get_return_code, aliases=("$retcode",), inline="run.retcode")
        plain("$return", self.get_return, name_arg=True, parse_name=self.return_index)
        plain("$param", self.get_param, name_arg=True, parse_name=self.param_name)
        plain("$route", self.get_route, index=True)
        plain("$route.name", self.get_route_name, index=True)
        plain("$route.type", self.get_route_type, index=True)
        # Constants of the place in the script: the parser fills them in.
        plain("$cfg_line", self.get_nothing)
        plain("$cfg_file", self.get_nothing)
        plain("$C", self.get_colour, name_arg=True, parse_name=colour)
        plain("$err.class", lambda run, name, index: run.error_class)
        plain("$err.level", lambda run, name, index: run.error_level)
        plain("$err.info", lambda run, name, index: run.error_info)
        plain("$err.rcode", lambda run, name, index: run.error_code)
        plain("$err.rreason", lambda run, name, index: run.error_reason)

    def _plain(
        self,
        name: str,
        get: VariableGet,
        aliases: tuple[str, ...] = (),
        name_arg: Any = False,
        index: bool = False,
        fixed: tuple[str, ...] = (),
        parse_name: Callable[[str], object] | None = None,
        inline: str = "",
    ) -> None:
        for spelling in (name, *aliases):
            self.catalogue.add_variable(
                VariableDecl(
                    spelling,
                    "core",
                    get,
                    None,
                    name_arg,
                    index,
                    False,
                    fixed,
                    parse_name,
                    None,
                    inline,
                )
            )

    def _writable(
        self,
        name: str,
        get: VariableGet,
        set: VariableSet,
        aliases: tuple[str, ...] = (),
        name_arg: Any = False,
        index: bool = False,
        fixed: tuple[str, ...] = (),
        parse_name: Callable[[str], object] | None = None,
        replace: VariableSet | None = None,
        inline: str = "",
        inline_store: str = "",
    ) -> None:
        for spelling in (name, *aliases):
            self.catalogue.add_variable(
                VariableDecl(
                    spelling,
                    "core",
                    get,
                    set,
                    name_arg,
                    index,
                    True,
                    fixed,
                    parse_name,
                    replace,
                    inline,
                    inline_store,
                )
            )


def _route_text(kind: int, name: str) -> str:
    return f"{kinds.kind_keyword(kind)}[{name}]" if name else kinds.kind_keyword(kind)


# -- header readers that need no server

_CREDENTIALS: Final = "core.credentials"
_AUTH_FIELDS: Final = {
    "$au": "user",
    "$ad": "domain",
    "$aU": "username",
    "$ar": "realm",
    "$adu": "uri",
    "$an": "nonce",
    "$auth.nonce": "nonce",
    "$auth.resp": "response",
    "$auth.opaque": "opaque",
    "$auth.alg": "algorithm",
    "$auth.qop": "qop",
    "$auth.nc": "nc",
    "$auth.cnonce": "cnonce",
}


def _address(msg: Message, kind: int) -> NameAddr | None:
    """The address in a header that holds one; None when it is absent or cannot be read."""
    try:
        if kind == sip.H_FROM:
            return msg.from_
        if kind == sip.H_TO:
            return msg.to
        header = msg.first(kind)
        if header is None:
            return None
        if kind in (sip.H_PAI, sip.H_PPI, sip.H_DIVERSION):
            found = parse_name_addr_list(header.value)
            return found[0] if found else None
        return parse_name_addr(header.value)
    except sip.ParseError:
        return None


def _uri_of(address: NameAddr) -> Value:
    return or_null(address.uri)


def _tag_of(address: NameAddr) -> Value:
    return or_null(address.tag)


def _display_of(address: NameAddr) -> Value:
    return or_null(uris.shown_name(address))


def _address_getter(kind: int, part: Callable[[NameAddr], Value]) -> VariableGet:
    def get(run: Run, name: object, index: Index) -> Value:
        address = _address(run.msg, kind)
        return part(address) if address is not None else None

    return get


def _address_uri(msg: Message, kind: int) -> Value:
    address = _address(msg, kind)
    return or_null(address.uri) if address is not None else None


def _address_param(msg: Message, kind: int, name: str) -> Value:
    address = _address(msg, kind)
    return or_null(address.param(name)) if address is not None else None


def _contact_field(text: str, field: str) -> str | None:
    if text == "*":
        return "*" if field == "uri" else None
    try:
        contact = parse_name_addr(text)
    except sip.ParseError:
        return None
    if field == "name":
        return uris.shown_name(contact)
    if field == "uri":
        return contact.uri
    if field == "params":
        return contact.params.removeprefix(";")
    value = contact.param(field)
    return uris.unquote(value) if value is not None else None


def _credentials(run: Run) -> sip.Credentials | None:
    """The credentials that scripts see: Proxy-Authorization's before Authorization's, None without any.

    ACK and CANCEL show none: nobody can be challenged for them (RFC 3261 §22.1).
    """
    msg = run.msg
    if msg.method_id in (sip.M_ACK, sip.M_CANCEL):
        return None
    # A script that authenticates reads several of them: they are parsed once for a message.
    known = run.ctx.get(_CREDENTIALS)
    if isinstance(known, tuple) and known[0] is msg:
        credentials: sip.Credentials | None = known[1]
        return credentials
    credentials = _read_credentials(msg)
    run.ctx[_CREDENTIALS] = (msg, credentials)
    return credentials


def _read_credentials(msg: Message) -> sip.Credentials | None:
    for kind in (sip.H_PROXY_AUTHORIZATION, sip.H_AUTHORIZATION):
        try:
            found = msg.credentials(kind)
        except sip.ParseError:
            continue
        if found:
            return found[0]
    return None


def _credentials_getter(field: str) -> VariableGet:
    def get(run: Run, name: object, index: Index) -> Value:
        credentials = _credentials(run)
        if credentials is None:
            return None
        value: Value = getattr(credentials, field)
        return or_null(value if value is None else str(value))

    return get


def _challenge_getter(field: str) -> VariableGet:
    def get(run: Run, name: object, index: Index) -> Value:
        msg = run.msg
        text = msg.value(sip.H_PROXY_AUTHENTICATE) or msg.value(sip.H_WWW_AUTHENTICATE)
        return or_null(uris.auth_params(text).get(field)) if text else None

    return get


__all__ = ["CoreVariables", "body_text", "colour", "or_null", "pick", "proto_number", "uri_port", "uri_proto"]
