"""The configuration file of the Diameter peer, in freeDiameter's syntax. Pure.

Read are Identity, Realm, Port, SecPort, ListenOn, TLS_Cred, TLS_CA, TLS_CRL, TcTimer, TwTimer, No_TCP, No_SCTP,
Prefer_TCP, SCTP_streams, ConnectPeer, and the list of a LoadExtension of acl_wl; what concerns threads, or dictionaries
of freeDiameter has no effect.
"""

from __future__ import annotations

import re
from typing import Final

DEFAULT_PORT: Final = 3868
SECURE_PORT: Final = 5658
"""RFC 6733 §11.4: of TLS."""
CONNECT_S: Final = 30.0
"""TcTimer of freeDiameter: the longest pause between two attempts to connect."""
WATCHDOG_S: Final = 30.0
"""TwTimer (RFC 3539 §3.4.1)."""
LEAST_WATCHDOG_S: Final = 1
STREAMS: Final = 30
"""SCTP_streams of freeDiameter."""
TCP: Final = "tcp"
SCTP: Final = "sctp"

_TOKEN: Final = re.compile(r'\s+|#[^\n]*|"((?:[^"\\\n]|\\.)*)"|([A-Za-z_][\w-]*)|(-?\d+)|([={};,:])')
_IGNORED: Final = frozenset(
    (
        "no_ip",
        "no_ipv6",
        "no_relay",
        "notls_old",
        "appservthreads",
        "routinginthreads",
        "routingoutthreads",
        "incomingqueuelimit",
        "outgoingqueuelimit",
        "localqueuelimit",
        "tls_prio",
        "tls_dh_file",
        "tls_dh_bits",
        "processingpeerspattern",
        "processingpeersminimum",
    )
)
_PEER_IGNORED: Final = frozenset(["no_ip", "no_ipv6", "tls_prio"])
_FLAGS: Final = frozenset(["no_tcp", "no_sctp", "prefer_tcp"])


class ConfigError(ValueError):
    """A configuration file that cannot be used."""


class PeerConfig:
    """A peer to connect to. address: a name or an address. secure: only over TLS.

    transports: what to connect with, TCP or SCTP, in this order. flags: what its entry says of that.
    """

    __slots__ = ("address", "connect_s", "flags", "identity", "port", "realm", "secure", "transports", "watchdog_s")

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.address = identity
        self.port = DEFAULT_PORT
        self.secure = False
        self.flags: set[str] = set()
        self.transports: tuple[str, ...] = (TCP,)
        self.realm = ""
        self.connect_s = 0.0
        self.watchdog_s = 0.0


class Config:
    """What a file says. port, secure_port: 0 for no listening. certificate and what follows: files, "" for none."""

    def __init__(self) -> None:
        self.identity = ""
        self.realm = ""
        self.port = DEFAULT_PORT
        self.secure_port = SECURE_PORT
        self.flags: set[str] = set()
        self.streams = STREAMS
        self.certificate = ""
        self.key = ""
        self.authorities = ""
        self.revocations = ""
        self.listen_on: list[str] = []
        self.connect_s = CONNECT_S
        self.watchdog_s = WATCHDOG_S
        self.peers: list[PeerConfig] = []
        self.allowed: list[str] = []
        self.allow_files: list[str] = []

    @property
    def tcp(self) -> bool:
        """Whether to listen with TCP."""
        return "no_tcp" not in self.flags

    @property
    def sctp(self) -> bool:
        """Whether to listen with SCTP, where the kernel has it."""
        return "no_sctp" not in self.flags

    def transports(self, peer: PeerConfig) -> tuple[str, ...]:
        """What a peer may be connected with, what is preferred first: SCTP, unless the file says otherwise."""
        flags = self.flags | peer.flags
        if {"no_tcp", "no_sctp"} <= flags:
            raise ConfigError(f"{peer.identity}: No_TCP and No_SCTP leave nothing to connect with")
        if peer.secure:
            if "no_tcp" in flags:
                raise ConfigError(f"{peer.identity}: TLS needs TCP (DTLS over SCTP is not provided): No_TLS is missing")
            return (TCP,)
        found = (TCP, SCTP) if "prefer_tcp" in flags else (SCTP, TCP)
        return tuple(name for name in found if f"no_{name}" not in flags)

    def admits(self, identity: str, secure: bool = False) -> bool:
        """Whether a peer of this name may connect to us: one of ConnectPeer, or one that an acl_wl file lists."""
        identity = identity.lower()
        for peer in self.peers:
            if peer.identity.lower() == identity:
                return secure or not peer.secure
        for pattern in self.allowed:
            if pattern == identity or pattern == "*" or (pattern[:2] == "*." and identity.endswith(pattern[1:])):
                return True
        return False


def parse_url(url: str) -> tuple[str, str]:
    """`diameter:FILE[;extra-avps-file:FILE]` as the two names; the second "" when it is not given."""
    scheme, colon, rest = url.partition(":")
    if not colon or scheme.strip().lower() != "diameter":
        raise ConfigError("starts with diameter:")
    name, *options = (part.strip() for part in rest.split(";"))
    if not name:
        raise ConfigError("names a configuration file")
    extra = ""
    for option in options:
        key, colon, value = option.partition(":")
        if key.strip().lower() == "extra-avps-file" and colon:
            extra = value.strip()
        elif option:
            raise ConfigError(f"has an option {option} that is not known: that is extra-avps-file:FILE")
    return name, extra


def parse_allowed(text: str) -> list[str]:
    """The names in a file of freeDiameter's acl_wl: words, with ALLOW_IPSEC and ALLOW_OLD_TLS in front of some."""
    words = " ".join(line.partition("#")[0] for line in text.splitlines()).split()
    return [word.lower() for word in words if word.upper() not in ("ALLOW_IPSEC", "ALLOW_OLD_TLS")]


def parse_config(text: str) -> Config:
    """Read a configuration file. ConfigError names the line."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        at, line = 0, 1
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ConfigError(f"line {line}: {text[at : at + 20]!r} is not understood")
            kind = ("", "text", "word", "number", "sign")[found.lastindex or 0]
            if kind:
                self._tokens.append((kind, found.group(found.lastindex or 0), line))
            line += found.group().count("\n")
            at = found.end()
        self._at = 0
        self._line = line

    def read(self) -> Config:
        config = Config()
        while self._at < len(self._tokens):
            word = self._take("word")
            self._line = self._tokens[self._at - 1][2]
            name = word.lower()
            if name == "connectpeer":
                config.peers.append(self._peer())
            elif name == "loadextension":
                values = self._values()
                if len(values) > 1 and "acl_wl" in values[0]:
                    config.allow_files.append(values[1])
            elif name == "identity":
                config.identity = self._values()[0]
            elif name == "realm":
                config.realm = self._values()[0]
            elif name == "port":
                config.port = self._number(0xFFFF)
            elif name == "secport":
                config.secure_port = self._number(0xFFFF)
            elif name == "tls_cred":
                config.certificate, config.key = self._files(2)
            elif name == "tls_ca":
                [config.authorities] = self._files(1)
            elif name == "tls_crl":
                [config.revocations] = self._files(1)
            elif name == "listenon":
                config.listen_on += self._values()
            elif name == "tctimer":
                config.connect_s = float(max(1, self._number()))
            elif name == "twtimer":
                config.watchdog_s = float(max(LEAST_WATCHDOG_S, self._number()))
            elif name == "sctp_streams":
                config.streams = max(1, self._number(0xFFFF))
            elif name in _FLAGS:
                config.flags.add(name)
                self._values()
            elif name in _IGNORED:
                self._values()
            else:
                raise ConfigError(f"line {self._line}: {word} is not known")
        if not config.tcp and not config.sctp:
            raise ConfigError("No_TCP and No_SCTP leave nothing to connect with")
        if not config.identity:
            raise ConfigError("Identity is needed")
        if not config.realm:
            config.realm = config.identity.partition(".")[2]
        if not config.realm:
            raise ConfigError("Realm is needed")
        for peer in config.peers:
            if peer.secure and not (config.certificate and config.authorities):
                raise ConfigError(f"{peer.identity} needs No_TLS, or TLS_Cred and TLS_CA")
            peer.transports = config.transports(peer)
        return config

    def _files(self, count: int) -> list[str]:
        values = self._values()
        if len(values) != count or not all(values):
            raise ConfigError(f"line {self._line}: {count} names of files are expected")
        return values

    def _peer(self) -> PeerConfig:
        self._sign("=")
        peer = PeerConfig(self._take("text"))
        plain, port = False, 0
        if self._is("{"):
            while not self._is("}"):
                word = self._take("word").lower()
                if word == "no_tls":
                    plain = True
                    self._values()
                elif word == "connectto":
                    peer.address = self._values()[0]
                elif word == "port":
                    port = self._number(0xFFFF)
                elif word == "realm":
                    peer.realm = self._values()[0]
                elif word == "tctimer":
                    peer.connect_s = float(max(1, self._number()))
                elif word == "twtimer":
                    peer.watchdog_s = float(max(LEAST_WATCHDOG_S, self._number()))
                elif word == "tls_old_method":
                    raise ConfigError(f"line {self._line}: TLS after the capabilities exchange is not provided")
                elif word in _FLAGS:
                    peer.flags.add(word)
                    self._values()
                elif word in _PEER_IGNORED:
                    self._values()
                else:
                    raise ConfigError(f"line {self._line}: {word} is not known in ConnectPeer")
        self._sign(";")
        peer.secure = not plain
        peer.port = port or (DEFAULT_PORT if plain else SECURE_PORT)
        return peer

    def _values(self) -> list[str]:
        """What stands between a word and its semicolon; [""] for nothing."""
        values = []
        while not self._is(";"):
            kind, text, _ = self._next()
            if kind in ("text", "word", "number"):
                values.append(text)
            elif text not in "=,:":
                raise ConfigError(f"line {self._line}: a semicolon is missing before {text}")
        return values or [""]

    def _number(self, most: int = 86400) -> int:
        text = self._values()[0]
        if not text.isdigit() or int(text) > most:
            raise ConfigError(f"line {self._line}: {text} is no number from 0 to {most}")
        return int(text)

    def _next(self) -> tuple[str, str, int]:
        if self._at >= len(self._tokens):
            raise ConfigError(f"line {self._line}: the end is missing")
        token = self._tokens[self._at]
        self._at += 1
        self._line = token[2]
        return token

    def _take(self, kind: str) -> str:
        found, text, line = self._next()
        if found != kind:
            raise ConfigError(f"line {line}: {text} is not expected here")
        return text

    def _is(self, sign: str) -> bool:
        if self._at >= len(self._tokens):
            raise ConfigError(f"line {self._line}: the end is missing")
        if self._tokens[self._at][:2] == ("sign", sign):
            self._at += 1
            return True
        return False

    def _sign(self, sign: str) -> None:
        if not self._is(sign):
            raise ConfigError(f"line {self._line}: {sign} is missing")
