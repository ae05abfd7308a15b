"""The global parameters of a script: 101 names, each with a type and the C server's default.

A parameter that sizes something this server does not have (memory pools, process counts) is accepted and kept; the
server tells with a note that it means nothing here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opensipspy.script.errors import ERROR, Finding, Pos
from opensipspy.script.names import removed_global

if TYPE_CHECKING:
    # Only the parser has words to read; a start with a kept program does not load Lark.
    from lark import Token

BOOL: Final = "bool"
INT: Final = "int"
STRING: Final = "string"
WORD: Final = "identifier or string"
HOST: Final = "host"

# name -> (type, default). Types without a reader here have one of their own below.
PARAMETERS: Final[dict[str, tuple[str, Any]]] = {
    "abort_on_assert": (BOOL, False),
    "advertised_address": (HOST, ""),
    "advertised_port": (INT, 0),
    "alias": ("alias", None),
    "auto_aliases": (BOOL, False),
    "auto_scaling_cycle": (INT, 1),
    "auto_scaling_profile": ("profile", None),
    "check_via": (BOOL, False),
    "chroot": (WORD, ""),
    "db_default_url": (STRING, ""),
    "db_max_async_connections": (INT, 10),
    "db_version_table": (STRING, "version"),
    "debug_mode": (BOOL, False),
    "disable_503_translation": (BOOL, False),
    "disable_core_dump": (BOOL, False),
    "disable_dns_blacklist": (BOOL, True),
    "disable_dns_failover": (BOOL, False),
    "disable_stateless_fwd": (BOOL, True),
    "dns": (BOOL, False),
    "dns_retr_no": (INT, -1),
    "dns_retr_time": (INT, -1),
    "dns_servers_no": (INT, -1),
    "dns_try_ipv6": (BOOL, False),
    "dns_try_naptr": (BOOL, True),
    "dns_use_search_list": (BOOL, True),
    "dst_blacklist": ("blacklist", None),
    "enable_asserts": (BOOL, False),
    "event_pkg_threshold": (INT, 0),
    "event_shm_threshold": (INT, 0),
    "exec_dns_threshold": (INT, 0),
    "exec_msg_threshold": (INT, 0),
    "log_event_enabled": (BOOL, False),
    "log_event_level_filter": (INT, 0),
    "log_json_buf_size": (INT, 6144),
    "log_level": (INT, 2),
    "log_msg_buf_size": (INT, 4096),
    "log_prefix": (STRING, ""),
    "log_stdout": (BOOL, False),
    "max_while_loops": (INT, 10000),
    "maxbuffer": (INT, 262144),
    "mcast_loopback": (BOOL, False),
    "mcast_ttl": (INT, -1),
    "mem-group": ("memory group", None),
    "mem_warming": (BOOL, False),
    "mem_warming_pattern_file": (STRING, "mem_warming_pattern"),
    "mem_warming_percentage": (INT, 75),
    "memdump": (INT, 14),
    "memlog": (INT, 15),
    "mhomed": (BOOL, False),
    "mpath": ("path list", None),
    "open_files_limit": (INT, -1),
    "pi_framework": (STRING, ""),
    "poll_method": (WORD, ""),
    "pv_print_buf_size": (INT, 20000),
    "query_buffer_size": (INT, 0),
    "query_flush_time": (INT, 0),
    "restart_persistency_cache_file": (STRING, ".restart_persistency.cache"),
    "restart_persistency_size": (INT, 0),
    "rev_dns": (BOOL, False),
    "server_header": (STRING, ""),
    "server_signature": (BOOL, True),
    "shm_hash_split_percentage": (INT, 1),
    "shm_memlog_size": (INT, 0),
    "shm_secondary_hash_size": (INT, 8),
    "sip_warning": (BOOL, False),
    "socket": ("socket", None),
    "stderror_enabled": (BOOL, True),
    "stderror_level_filter": (INT, 0),
    "stderror_log_format": (STRING, "plain_text"),
    "syslog_enabled": (BOOL, False),
    "syslog_facility": (WORD, "LOG_DAEMON"),
    "syslog_level_filter": (INT, 0),
    "syslog_log_format": (STRING, "plain_text"),
    "syslog_name": (STRING, ""),
    "tcp_accept_aliases": (BOOL, False),
    "tcp_connect_timeout": (INT, 100),
    "tcp_connection_lifetime": (INT, 120),
    "tcp_keepalive": (BOOL, True),
    "tcp_keepcount": (INT, 0),
    "tcp_keepidle": (INT, 0),
    "tcp_keepinterval": (INT, 0),
    "tcp_max_connections": (INT, 2048),
    "tcp_max_msg_time": (INT, 4),
    "tcp_no_new_conn_bflag": (WORD, ""),
    "tcp_no_new_conn_rplflag": (WORD, ""),
    "tcp_socket_backlog": (INT, 10),
    "tcp_threads": (INT, 0),
    "tcp_threshold": (INT, 0),
    "tcp_workers": ("workers", 8),
    "timer_workers": ("workers", 1),
    "tos": ("tos", 0x10),
    "udp_workers": ("workers", 8),
    "user_agent_header": (STRING, ""),
    "wdir": (WORD, ""),
    "worker_reactor_timeout": (INT, 1000),
    "xlog_buf_size": (INT, 4096),
    "xlog_force_color": (BOOL, False),
    "xlog_level": (INT, 2),
    "xlog_print_level": (INT, 2),
}
ALIASES: Final = {
    "execdnsthreshold": "exec_dns_threshold",
    "execmsgthreshold": "exec_msg_threshold",
    "mem_warming_enabled": "mem_warming",
    "mem_dump": "memdump",
    "mem_log": "memlog",
    "tcpthreshold": "tcp_threshold",
    "workdir": "wdir",
    "workerreactortimeout": "worker_reactor_timeout",
}
CHOICES: Final = {
    "stderror_log_format": ("plain_text", "json", "json_cee"),
    "syslog_log_format": ("plain_text", "json", "json_cee"),
    "poll_method": ("poll", "epoll", "sigio_rt", "select", "kqueue", "/dev/poll"),
    "syslog_facility": (
        "LOG_AUTH", "LOG_AUTHPRIV", "LOG_CRON", "LOG_DAEMON", "LOG_FTP", "LOG_KERN", "LOG_LPR", "LOG_MAIL", "LOG_NEWS",
        "LOG_SYSLOG", "LOG_USER", "LOG_UUCP",
        "LOG_LOCAL0", "LOG_LOCAL1", "LOG_LOCAL2", "LOG_LOCAL3", "LOG_LOCAL4", "LOG_LOCAL5", "LOG_LOCAL6", "LOG_LOCAL7",
    ),
}  # fmt: skip
TOS_NAMES: Final = {
    "IPTOS_LOWDELAY": 0x10,
    "IPTOS_THROUGHPUT": 0x08,
    "IPTOS_RELIABILITY": 0x04,
    "IPTOS_MINCOST": 0x02,
    "IPTOS_LOWCOST": 0x02,
}
PROTOCOLS: Final = (
    "udp", "tcp", "tls", "sctp", "ws", "wss", "ipsec", "bin", "bins", "hep_udp", "hep_tcp", "hep_tls", "smpp", "msrp",
    "msrps",
)  # fmt: skip


class SocketDef(NamedTuple):
    """One `socket=`. host: address, name, interface or "*". ports: none for the protocol's own. options: words and
    values beside `as` and `tag` (`tos`, `use_workers`, ...)."""

    proto: str
    host: str
    ports: tuple[int, ...]
    as_host: str
    as_port: int
    tag: str
    options: dict[str, int | str]
    pos: Pos


class AliasDef(NamedTuple):
    """One `alias=` name; proto "" and port 0 mean any."""

    proto: str
    host: str
    port: int
    accept_subdomain: bool


class BlacklistDef(NamedTuple):
    """One `dst_blacklist=`; rules: (negated, proto, network, port, pattern)."""

    name: str
    flags: tuple[str, ...]
    rules: tuple[tuple[bool, str, str, int, str], ...]


class GlobalSetting(NamedTuple):
    """One assignment as it was written: the tokens of its value and their places."""

    name: str
    pos: Pos
    tokens: list[Token]
    places: list[Pos]


class Globals:
    """The parameters with their values; `mem-group` is `mem_group`. `given` names those that the script sets."""

    def __init__(self) -> None:
        for name, (_, default) in PARAMETERS.items():
            setattr(self, name.replace("-", "_"), default)
        self.sockets: list[SocketDef] = []
        self.bonds: dict[str, tuple[str, ...]] = {}
        self.aliases: list[AliasDef] = []
        self.mpath: list[str] = []
        self.blacklists: list[BlacklistDef] = []
        self.auto_scaling_profiles: list[str] = []
        self.memory_groups: list[str] = []
        self.given: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no global parameter {name}")

    def as_data(self) -> dict[str, Any]:
        """Plain containers only, as the cache keeps them."""
        data = dict(vars(self))
        data["given"] = sorted(self.given)
        data["sockets"] = [tuple(s._replace(pos=tuple(s.pos))) for s in self.sockets]  # type: ignore[arg-type]
        data["aliases"] = [tuple(a) for a in self.aliases]
        data["blacklists"] = [tuple(b) for b in self.blacklists]
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Globals:
        made = cls()
        for name, value in data.items():
            setattr(made, name, value)
        made.given = set(data["given"])
        made.sockets = [SocketDef(p, h, n, ah, ap, t, o, Pos(*pos)) for p, h, n, ah, ap, t, o, pos in data["sockets"]]
        made.aliases = [AliasDef(*a) for a in data["aliases"]]
        made.blacklists = [BlacklistDef(*b) for b in data["blacklists"]]
        return made


class _Mistake(Exception):
    def __init__(self, index: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.index = index
        self.message = message
        self.hint = hint


class _Reader:
    """Walks over the tokens of one value."""

    def __init__(self, setting: GlobalSetting) -> None:
        self.tokens = setting.tokens
        self.setting = setting
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index].type if index < len(self.tokens) else ""

    def take(self, *kinds: str, what: str = "") -> Token:
        if self.peek() not in kinds:
            found = f"not '{self.tokens[self.at]}'" if self.at < len(self.tokens) else "but the value ends here"
            raise _Mistake(self.at, f"{self.setting.name} expects {what or ' or '.join(kinds)}, {found}")
        self.at += 1
        return self.tokens[self.at - 1]

    def word(self) -> str:
        """The next token when it is an unquoted word of any kind, in lower case; else ""."""
        if self.at < len(self.tokens) and self.tokens[self.at].type not in ("STRING", "COLON", "COMMA", "ASSIGN"):
            return str(self.tokens[self.at]).lower()
        return ""

    def end(self) -> None:
        if self.at < len(self.tokens):
            hint = ""
            if self.tokens[self.at].line != self.tokens[self.at - 1].line:
                hint = "expected a global parameter (name=value), loadmodule or a route block"
            raise _Mistake(self.at, f"unexpected '{self.tokens[self.at]}'", hint)

    # -- simple values

    def integer(self) -> int:
        sign = 1
        if self.peek() in ("MINUS", "PLUS"):
            sign = -1 if self.take("MINUS", "PLUS").type == "MINUS" else 1
        return sign * int(self.take("INT", what="a number").value)

    def boolean(self) -> bool:
        token = self.take("INT", what="yes or no")
        return bool(token.value)

    def string(self) -> str:
        parts = [str(self.take("STRING", what="a string in quotes").value)]
        while self.peek() == "STRING":
            parts.append(str(self.take("STRING").value))
        return "".join(parts)

    def word_or_string(self) -> str:
        token = self.take("ID", "STRING", what="a name or a string")
        return str(token.value)

    # -- addresses

    def host(self) -> str:
        """An address, a quoted text, or a name of words with dots and hyphens between them and no space."""
        if self.peek() in ("IP", "STRING"):
            return str(self.take("IP", "STRING").value).strip("[]")
        if not self._name_part():
            raise _Mistake(self.at, f"{self.setting.name} expects an address or a host name")
        begin = self.at
        self.at += 1
        while (
            self.at < len(self.tokens)
            and self._adjacent()
            and (
                self.peek() in ("DOT", "MINUS")
                or (self._name_part() and self.tokens[self.at - 1].type in ("DOT", "MINUS"))
            )
        ):
            self.at += 1
        return "".join(str(token) for token in self.tokens[begin : self.at])

    def _name_part(self) -> bool:
        return self.at < len(self.tokens) and str(self.tokens[self.at])[:1].isalnum()

    def _adjacent(self) -> bool:
        return self.tokens[self.at].start_pos == self.tokens[self.at - 1].end_pos

    def port(self) -> int:
        index = self.at
        number = self.integer()
        if not 0 < number < 65536:
            raise _Mistake(index, f"{number} is no port")
        return number

    def proto(self, allow_any: bool = False) -> str:
        index = self.at
        word = str(self.take("ID", what="a protocol (udp, tcp, tls, ws, wss, sctp)")).lower()
        if word == "any" and allow_any:
            return ""
        if word not in PROTOCOLS:
            near = difflib.get_close_matches(word, PROTOCOLS, n=1)
            raise _Mistake(index, f"unknown protocol {word}", f"did you mean {near[0]}?" if near else "")
        return word

    # -- structured values

    def socket(self) -> SocketDef | tuple[str, tuple[str, ...]]:
        pos = self.setting.pos
        if self.word() == "bond":
            return self._bond()
        proto = self.proto()
        self.take("COLON", what="':' and an address, as in udp:192.0.2.1:5060")
        if self.peek() == "STAR":
            self.at += 1
            host = "*"
        else:
            host = self.host()
        ports: list[int] = []
        if self.peek() == "COLON":
            self.at += 1
            ports += self._ports()
            while self.peek() == "COMMA":
                self.at += 1
                ports += self._ports()
        as_host, as_port, tag = "", 0, ""
        options: dict[str, int | str] = {}
        while self.at < len(self.tokens):
            index, word = self.at, self.word()
            self.at += 1
            if word == "as":
                as_host = self.host()
                if self.peek() == "COLON":
                    self.at += 1
                    as_port = self.port()
            elif word == "tag":
                tag = self.word_or_string()
            elif word in ("use_workers", "tos"):
                named = TOS_NAMES.get(str(self.tokens[self.at])) if self.at < len(self.tokens) else None
                if word == "tos" and named is not None:
                    self.at += 1
                    options[word] = named
                else:
                    options[word] = self.integer()
            elif word == "use_auto_scaling_profile":
                options[word] = self.word_or_string()
            elif word in (
                "anycast", "frag", "reuse_port", "accept_subdomain", "allow_proxy", "allow_proxy_protocol",
                "send_proxy",
                "send_proxy_protocol", "proxy", "proxy_protocol",
            ):  # fmt: skip
                options[word.removesuffix("_protocol") if "proxy" in word else word] = 1
            elif self.tokens[index].line != self.tokens[index - 1].line:
                # Another line, and no option: what stands there belongs into a route, most often.
                self.at = index
                self.end()
            else:
                raise _Mistake(
                    index,
                    f"unknown option '{self.tokens[index]}'",
                    "as, tag, tos, use_workers, anycast, frag, reuse_port, accept_subdomain, proxy",
                )
        return SocketDef(proto, host, tuple(ports), as_host, as_port, tag, options, pos)

    def _ports(self) -> list[int]:
        first = self.port()
        if self.peek() != "MINUS":
            return [first]
        self.at += 1
        index = self.at
        last = self.port()
        if last < first or last - first > 1000:
            raise _Mistake(index, f"{first}-{last} is no range of ports", "at most 1000 from low to high")
        return list(range(first, last + 1))

    def _bond(self) -> tuple[str, tuple[str, ...]]:
        self.at += 1
        self.take("COLON", what="':' and the name of the bond")
        name = self.word_or_string()
        self.take("LBRACE", what="'{' and the sockets of the bond")
        members: list[str] = []
        while self.peek() != "RBRACE":
            members.append(self._quoted_member() if self.peek() == "STRING" else self._member())
            if self.peek() in ("COMMA", "SEMI"):
                self.at += 1
        self.take("RBRACE")
        return name, tuple(members)

    def _quoted_member(self) -> str:
        index = self.at
        text = str(self.take("STRING").value)
        proto, colon, address = text.partition(":")
        if proto.lower() not in PROTOCOLS or not colon or not address:
            raise _Mistake(index, f'"{text}" is no socket', 'as in "udp:192.0.2.1:5060"')
        return text

    def _member(self) -> str:
        proto = self.proto()
        self.take("COLON", what="':'")
        member = f"{proto}:{self.host()}"
        if self.peek() == "COLON":
            self.at += 1
            member += f":{self.port()}"
        return member

    def aliases(self) -> list[AliasDef]:
        found: list[AliasDef] = []
        while self.at < len(self.tokens):
            proto, port = "", 0
            if self.peek() == "ID" and self.peek(1) == "COLON":
                proto = self.proto(allow_any=True)
                self.take("COLON")
            host = self.host()
            if self.peek() == "COLON":
                self.at += 1
                if self.word() == "any":
                    self.at += 1
                else:
                    port = self.port()
            subdomain = self.word() == "accept_subdomain"
            if subdomain:
                self.at += 1
            found.append(AliasDef(proto, host, port, subdomain))
            if self.peek() == "COMMA":
                self.at += 1
        return found

    def paths(self) -> list[str]:
        found = [self.string()]
        while self.peek() == "COLON":
            self.at += 1
            found.append(self.string())
        return [path for text in found for path in text.split(":") if path]

    def workers(self) -> int:
        count = self.integer()
        if self.word() == "use_auto_scaling_profile":
            self.at += 1
            self.word_or_string()
        return count

    def tos(self) -> int:
        if self.peek() == "ID":
            index = self.at
            name = str(self.take("ID"))
            if name not in TOS_NAMES:
                raise _Mistake(index, f"unknown type of service {name}", "one of " + ", ".join(TOS_NAMES))
            return TOS_NAMES[name]
        index = self.at
        value = self.integer()
        if not 0 <= value < 256:
            raise _Mistake(index, "a type of service is 0 to 255")
        return value

    def profile(self) -> str:
        """name scale up to N on N% for N cycles [within N] [scale down to N on N% for N cycles]; kept as text."""
        name = self.word_or_string()
        words = [str(token).lower() for token in self.tokens[self.at :]]
        text = " ".join(words)
        plain = "".join("#" if word.isdigit() else word for word in words)
        up, down = "scaleupto#on#%for#cycles", "scaledownto#on#%for#cycles"
        # "on" is a boolean word of the language too.
        if plain not in (up, up + "within#", up + down, up + "within#" + down):
            raise _Mistake(self.at, "expected: name scale up to N on N % for N cycles [within N] [scale down to ...]")
        self.at = len(self.tokens)
        return f"{name} {text}"

    def blacklist(self) -> BlacklistDef:
        name = self.word_or_string()
        flags: list[str] = []
        if self.peek() == "SLASH":
            self.at += 1
            while self.at < len(self.tokens) and self.peek() not in ("COLON", ""):
                word = self.word()
                if word == "read" and self.peek(1) == "MINUS":
                    self.at += 2
                    word = "read-only"
                if word not in ("read-only", "readonly", "expire", "default"):
                    raise _Mistake(self.at, f"unknown blacklist flag '{word}'", "read-only, expire, default")
                flags.append("read-only" if word == "readonly" else word)
                self.at += 1
                if self.peek() == "COMMA":
                    self.at += 1
        rules: list[tuple[bool, str, str, int, str]] = []
        if self.peek() == "COLON":
            self.at += 1
            self.take("LBRACE", what="'{' and the rules")
            while self.peek() != "RBRACE":
                rules.append(self._rule())
                if self.peek() == "COMMA":
                    self.at += 1
            self.take("RBRACE")
        return BlacklistDef(name, tuple(flags), tuple(rules))

    def _rule(self) -> tuple[bool, str, str, int, str]:
        negated = self.peek() == "NOT"
        if negated:
            self.at += 1
        if self.peek() != "LPAR":
            return negated, "", str(self.take("IP", "NET", what="a network or '('").value), 0, ""
        self.at += 1
        proto, port, pattern = "", 0, ""
        if self.peek() == "ID":
            proto = self.proto(allow_any=True)
            self.take("COMMA", what="','")
        network = str(self.take("IP", "NET", what="a network").value)
        if self.peek() == "COMMA":
            self.at += 1
            if self.word() == "any":
                self.at += 1
            else:
                index = self.at
                port = self.integer()
                if not 0 <= port < 65536:
                    raise _Mistake(index, f"{port} is no port")
            if self.peek() == "COMMA":
                self.at += 1
                pattern = self.string()
        self.take("RPAR", what="')'")
        return negated, proto, network, port, pattern


_SIMPLE: Final[dict[str, Callable[[_Reader], Any]]] = {
    BOOL: _Reader.boolean,
    INT: _Reader.integer,
    STRING: _Reader.string,
    WORD: _Reader.word_or_string,
    HOST: _Reader.host,
    "workers": _Reader.workers,
    "tos": _Reader.tos,
}


def read_global(target: Globals, setting: GlobalSetting) -> list[Finding]:
    """Put one assignment into `target`; returns what is wrong with it."""
    name = ALIASES.get(setting.name, setting.name)
    known = PARAMETERS.get(name)
    if known is None:
        old = removed_global(name)
        if old is not None:
            return [Finding(setting.pos, ERROR, "removed", *old)]
        near = difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else ""
        return [Finding(setting.pos, ERROR, "unknown-global", f"unknown global parameter {name}", hint)]
    reader = _Reader(setting)
    try:
        if not setting.tokens:
            raise _Mistake(0, f"{name} has no value")
        _store(target, name, known[0], reader)
        reader.end()
    except _Mistake as mistake:
        place = setting.places[mistake.index] if mistake.index < len(setting.places) else setting.pos
        return [Finding(place, ERROR, "global-value", mistake.message, mistake.hint)]
    target.given.add(name)
    return []


def _store(target: Globals, name: str, kind: str, reader: _Reader) -> None:
    simple: Callable[[_Reader], Any] | None = _SIMPLE.get(kind)
    if simple is not None:
        value = simple(reader)
        choices: Sequence[str] | None = CHOICES.get(name)
        if choices is not None and value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"did you mean {near[0]}?" if near else "one of " + ", ".join(choices)
            raise _Mistake(0, f"{name} cannot be {value!r}", hint)
        setattr(target, name, value)
    elif kind == "socket":
        found = reader.socket()
        if isinstance(found, SocketDef):
            target.sockets.append(found)
        else:
            target.bonds[found[0]] = found[1]
    elif kind == "alias":
        target.aliases += reader.aliases()
    elif kind == "path list":
        target.mpath += reader.paths()
    elif kind == "blacklist":
        target.blacklists.append(reader.blacklist())
    elif kind == "profile":
        target.auto_scaling_profiles.append(reader.profile())
    else:
        group = reader.string()
        reader.take("COLON", what="':' and the names of modules")
        target.memory_groups.append(f"{group}: {reader.string()}")
