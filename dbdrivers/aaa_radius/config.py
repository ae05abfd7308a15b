"""The file radiusclient.conf: servers, their secrets, and how long to wait for them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Final

AUTH_PORT: Final = 1812
ACCT_PORT: Final = 1813
MAX_SERVERS: Final = 8
MAX_FILE: Final = 1 << 20
DEAD_S: Final = 5.0
"""When the file does not say: a call need not wait for a server that was silent a moment ago."""


class ConfigError(Exception):
    """A file that is wrong; the text never has a secret in it."""


class ServerConfig:
    """One server. secret: stays out of every text."""

    __slots__ = ("host", "port", "secret")

    def __init__(self, host: str, port: int, secret: bytes) -> None:
        self.host = host
        self.port = port
        self.secret = secret


class Config:
    """What the file says, times in seconds.

    dead: how long a silent server is asked last. bind: the address to send from, "" for any. nas_identifier: sent in
    requests, "" for none. sealed: answers to Access-Requests have a Message-Authenticator; learns: those of a server
    that has sent one have it. ignored: unused settings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.auth: Sequence[ServerConfig] = ()
        self.acct: Sequence[ServerConfig] = ()
        self.dictionary: Path | None = None
        self.timeout = 10.0
        self.tries = 3
        self.dead = DEAD_S
        self.bind = ""
        self.nas_identifier = ""
        self.sealed = False
        self.learns = True
        self.ignored: list[str] = []


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        if path.stat().st_size > MAX_FILE:
            raise ConfigError(f"{path}: larger than {MAX_FILE} octets")
        text = path.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            found.append((number, words))
    return found


def _address(text: str, port: int) -> tuple[str, int, str]:
    """(host, port, secret) of host[:port[:secret]]."""
    host, rest = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        rest = rest.removeprefix(":")
    elif text.count(":") <= 2:
        host, _, rest = text.partition(":")
    number, _, secret = rest.partition(":")
    if not host or (number and not (number.isdecimal() and 0 < int(number) < 65536)):
        raise ValueError("host:port is expected")
    return host, int(number) if number else port, secret


def _secrets(path: Path) -> dict[str, str]:
    found = {}
    for number, words in _lines(path):
        if len(words) < 2:
            raise ConfigError(f"{path}, line {number}: host and secret are expected")
        found[words[0].partition("/")[0].lower()] = words[1]
    return found


def _number(text: str, least: float) -> float:
    value = float(text)
    if not least <= value <= 3600:
        raise ValueError(f"a number from {least:g} to 3600 is expected")
    return value


def read_config(path: Path) -> Config:
    """Raises ConfigError naming file and line."""
    config = Config(path)
    secrets: dict[str, str] = {}
    servers: dict[str, list[tuple[str, int, str]]] = {"authserver": [], "acctserver": []}
    for number, words in _lines(path):
        name, values = words[0].lower(), words[1:]
        try:
            if name in servers:
                port = AUTH_PORT if name == "authserver" else ACCT_PORT
                servers[name] += [_address(text, port) for value in values for text in value.split(",") if text]
            elif name == "servers":
                secrets = _secrets(path.parent / values[0])
            elif name == "dictionary":
                config.dictionary = path.parent / values[0]
            elif name == "radius_timeout":
                config.timeout = _number(values[0], 0.01)
            elif name == "radius_retries":
                config.tries = int(_number(values[0], 1))
            elif name == "radius_deadtime":
                config.dead = _number(values[0], 0)
            elif name == "bindaddr":
                config.bind = "" if values[0] == "*" else str(ipaddress.ip_address(values[0]))
            elif name == "require-message-authenticator":
                word = values[0].lower()
                config.sealed, config.learns = word in ("yes", "true"), word == "auto"
            elif name == "nas-identifier":
                config.nas_identifier = values[0]
            else:
                config.ignored.append(name)
        except (IndexError, ValueError) as error:
            # The value may hold a secret, so it is not shown.
            raise ConfigError(f"{path}, line {number}: the value of {name} is not understood") from error
    config.auth = _with_secrets(path, servers["authserver"], secrets)
    config.acct = _with_secrets(path, servers["acctserver"], secrets)
    return config


def _with_secrets(path: Path, found: list[tuple[str, int, str]], secrets: dict[str, str]) -> list[ServerConfig]:
    if len(found) > MAX_SERVERS:
        raise ConfigError(f"{path}: more than {MAX_SERVERS} servers of a kind")
    servers = []
    for host, port, own in found:
        secret = own or secrets.get(f"{host}:{port}".lower()) or secrets.get(host.lower())
        if not secret:
            raise ConfigError(f"{path}: the file of servers has no secret for {host}")
        servers.append(ServerConfig(host, port, secret.encode("utf-8", "surrogateescape")))
    return servers
