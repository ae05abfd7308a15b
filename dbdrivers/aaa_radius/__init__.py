"""RADIUS (RFC 2865, RFC 2866): the servers of a radiusclient.conf, for modules with an aaa_url and for scripts.

Replies count only from the server's address, with the right authenticator and, when there is one, the right
Message-Authenticator, which every Access-Request carries, as its first attribute. Once a server has sent one, replies
of its without are dropped, as they may be forged (CVE-2024-3596): `require-message-authenticator yes` in the file drops
them from the first on, `no` takes them always. The status report of the group `aaa` shows for each server whether it
answers. A silent server is asked last for `radius_deadtime` seconds (5 when the file does not say).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from opensipspy.aaa import AaaClient, AaaDriver, AaaError, AaaReply, AaaValue, sip_avps
from opensipspy.dbdrivers.aaa_radius.client import RadiusClient
from opensipspy.dbdrivers.aaa_radius.config import ConfigError, read_config
from opensipspy.dbdrivers.aaa_radius.dictionary import Dictionary, DictionaryError
from opensipspy.module import Module, Param, ParamError, Stat, script_function
from opensipspy.script.declare import VarRef
from opensipspy.script.run import Run
from opensipspy.script.varsyntax import parse_variable

ERROR: Final = -1
REJECTED: Final = -2
STATUS_GROUP: Final = "aaa"
AVAILABLE: Final = 1
AWAY: Final = -1


def parse_set(text: str) -> tuple[str, list[tuple[str, str]]]:
    """ "name = (Attribute = $var, ...)" as (name, [(attribute, variable)]); raises ValueError."""
    name, equals, rest = text.partition("=")
    name, rest = name.strip(), rest.strip()
    if not name or not equals or not rest.startswith("(") or not rest.endswith(")"):
        raise ValueError("a set is of the form name = (Attribute = $variable, ...)")
    pairs = []
    for part in rest[1:-1].split(","):
        attribute, equals, spec = (word.strip() for word in part.partition("="))
        if not attribute or not equals or not spec.startswith("$"):
            raise ValueError(f'"{part.strip()}" is not of the form Attribute = $variable')
        pairs.append((attribute, spec))
    return name, pairs


class AaaRadius(Module, AaaDriver):
    """Reach RADIUS servers."""

    name = "aaa_radius"
    kind = "aaa"

    sets = Param(str, None, "name = (Attribute = $variable, ...); may be given several times.", func=True)
    radius_config = Param(str, None, "The radiusclient.conf for radius_send_auth() and radius_send_acct().")
    syslog_name = Param(str, None, "Accepted and without effect: lines of the log carry the module's name.")
    fetch_all_values = Param(int, 0, "1: every value of an attribute is put into the variable, not only the first.")

    requests = Stat("Requests to RADIUS servers.")
    retransmissions = Stat("Requests that were sent again for want of an answer.")
    failed_requests = Stat("Requests of modules and scripts that no server answered, or that cannot be made.")
    dropped_replies = Stat("Replies that were dropped: broken, not authentic, or from a server with another secret.")
    late_replies = Stat("Replies that nobody waited for any more.")

    def __init__(self, **params: Any) -> None:
        self._texts: dict[str, list[tuple[str, str]]] = {}
        self._sets: dict[str, list[tuple[str, VarRef]]] = {}
        self._clients: dict[str, RadiusClient] = {}
        self._client: AaaClient | None = None
        super().__init__(**params)

    def set_sets(self, value: str) -> None:
        name, pairs = parse_set(value)
        self._texts[name] = pairs

    def api(self) -> AaaDriver:
        """The interface for other modules."""
        return self

    async def start(self) -> None:
        for name, pairs in self._texts.items():
            self._sets[name] = [(attribute, self._variable(spec)) for attribute, spec in pairs]
        if self.radius_config:
            try:
                self._client = await self.open_client(f"radius:{self.radius_config}")
                self._client.check(attribute for pairs in self._texts.values() for attribute, _ in pairs)
            except AaaError as error:
                raise ParamError(self.name, "radius_config", str(error)) from error

    def _variable(self, spec: str) -> VarRef:
        try:
            found = parse_variable(spec, 0, self.core.catalogue)
            if found.end != len(spec):
                raise ValueError(f"{spec} is more than a variable")
            return found.reference()
        except ValueError as error:
            raise ParamError(self.name, "sets", str(error)) from error

    async def stop(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        # Transports close their sockets in the loop's next turn.
        await asyncio.sleep(0)

    async def open_client(self, url: str) -> AaaClient:
        found = self._clients.get(url)
        if found is None:
            try:
                found = await asyncio.to_thread(self._load, Path(url.partition(":")[2]))
            except (ConfigError, DictionaryError) as error:
                raise AaaError(str(error)) from error
            found = self._clients.setdefault(url, found)
        return found

    def _load(self, path: Path) -> RadiusClient:
        config = read_config(path)
        dictionary = Dictionary()
        if config.dictionary is not None:
            dictionary.read(config.dictionary)
        if config.ignored:
            self.core.log.info("aaa_radius: %s: without use here: %s", path, ", ".join(config.ignored))
        return RadiusClient(config, dictionary, self)

    # --- Watcher

    def sent(self, again: bool) -> None:
        (self.retransmissions if again else self.requests).inc()

    def late(self) -> None:
        self.late_replies.inc()

    def dropped(self, server: str, why: str) -> None:
        self.dropped_replies.inc()
        self.core.log.warning("aaa_radius: dropped a reply of %s: %s", server, why)

    def failed(self) -> None:
        self.failed_requests.inc()

    def state(self, server: str, lost: bool, reason: str) -> None:
        known = server in (self.core.status.group(STATUS_GROUP) or {})
        text = f"does not answer: {reason}" if lost else "answers again" if known else "answers"
        self.core.status.set_status(STATUS_GROUP, AWAY if lost else AVAILABLE, text, server)
        if lost:
            self.core.log.error("aaa_radius: %s %s", server, text)
        elif known:
            self.core.log.warning("aaa_radius: %s %s", server, text)
        if lost or known:
            self.core.status.report(STATUS_GROUP, text, server)

    # --- from the script

    @script_function(async_ok=True)
    async def radius_send_auth(self, run: Run, input_set_name: str | None, output_set_name: str | None) -> int:
        """Ask the server whether what a set describes is granted, and put its answer into the variables of another.

        Returns 1, -1 an error, no server among them, -2 it is refused.
        """
        reply = await self._send(run, input_set_name, output_set_name, auth=True)
        if reply is None or output_set_name is None:
            return ERROR
        for attribute, variable in self._sets[output_set_name]:
            values = reply.all(attribute)
            for value in values if self.fetch_all_values else values[:1]:
                variable.set(run, value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value)
        for name, avp in sip_avps(reply):
            run.avps.setdefault(name, []).append(avp)
        return 1 if reply.accepted else REJECTED

    @script_function(async_ok=True)
    async def radius_send_acct(self, run: Run, input_set_name: str | None) -> int:
        """Hand an accounting record made of a set to the server. Returns 1, or -1 when none has taken it."""
        return 1 if await self._send(run, input_set_name, None, auth=False) is not None else ERROR

    async def _send(self, run: Run, source: str | None, target: str | None, auth: bool) -> AaaReply | None:
        try:
            if self._client is None:
                raise AaaError("the parameter radius_config is not set")
            if source is None:
                raise AaaError("the name of the set is NULL")
            for name in (source, target):
                if name is not None and name not in self._sets:
                    raise AaaError(f"there is no set {name}")
            attributes = self._attributes(run, source)
            return await (self._client.authenticate(attributes) if auth else self._client.account(attributes))
        except AaaError as error:
            if not error.transient:
                self.core.log.error("aaa_radius: %s", error)
            return None

    def _attributes(self, run: Run, name: str) -> list[tuple[str, AaaValue]]:
        """Variables that are NULL are left out."""
        found: list[tuple[str, AaaValue]] = []
        for attribute, variable in self._sets[name]:
            value = variable.get(run)
            if isinstance(value, int | str):
                found.append((attribute, value))
        return found
