"""Management commands as JSON-RPC 2.0 in datagrams, over UDP or a Unix socket: one request and one answer each."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import stat
from typing import Any, Final

from opensipspy.management import SERVER_ERROR, jsonrpc
from opensipspy.module import Param, ParamError, StartError
from opensipspy.module.door import MiDoor, group_id, user_id
from opensipspy.module.tracing import Ends

BURST: Final = 16
"""Datagrams that are read before something else gets its turn."""
RUNNING_LIMIT: Final = 64
"""Requests that are answered at the same time; the socket is not read while there are more."""
LARGEST_BUFFER: Final = 1 << 20
UNIX_PATH_LIMIT: Final = 107

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK: Final[tuple[Network, ...]] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


class MiDatagram(MiDoor):
    """Management commands in datagrams."""

    socket_name = Param(str, None, "`udp:address:port`, or the path of a Unix socket.")
    children_count = Param(int, 1, "Accepted for compatibility: one event loop serves any number of clients.")
    socket_timeout = Param(int, 2000, "How long an answer may take to be sent before it is dropped.", unit="ms")
    socket_buf_size = Param(int, 65457, "Longest request and longest answer.", unit="bytes")
    unix_socket_mode = Param(int, 0o660, "Permissions of the Unix socket.")
    unix_socket_user = Param((int, str), None, "Owner of the Unix socket, by name or number.")
    unix_socket_group = Param((int, str), None, "Group of the Unix socket, by name or number.")
    trusted = Param(
        str,
        None,
        "Address or network whose UDP requests are answered beside the loopback addresses.",
        repeated=True,
        func=True,
    )

    def __init__(self, **params: object) -> None:
        self._trusted: list[Network] = list(LOOPBACK)
        self._socket: socket.socket | None = None
        self._path = ""
        self._inside = 0
        self._reading = False
        self._refused = 0
        super().__init__(**params)

    def set_trusted(self, text: str) -> None:
        try:
            self._trusted.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError as error:
            raise ParamError(self.name, "trusted", f"takes an address or a network, not {text!r}") from error

    # --- life

    async def start(self) -> None:
        await super().start()
        if not self.socket_name:
            raise StartError("mi_datagram: socket_name is not set; for instance udp:127.0.0.1:8080")
        if not 0 < self.socket_buf_size <= LARGEST_BUFFER:
            raise StartError(f"mi_datagram: socket_buf_size is between 1 and {LARGEST_BUFFER}")
        try:
            if self.socket_name.startswith("udp:"):
                self._socket = self._open_udp(self.socket_name[4:])
            else:
                self._socket = self._open_unix(self.socket_name)
        except OSError as error:
            raise StartError(f"mi_datagram: {self.socket_name}: {error.strerror or error}") from error
        self._resume()

    def _open_udp(self, text: str) -> socket.socket:
        host, colon, port = text.rpartition(":")
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError as error:
            raise StartError(f"mi_datagram: {host!r} in socket_name is no IP address") from error
        if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
            raise StartError(f"mi_datagram: {port!r} in socket_name is no port")
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            opened.bind((str(address), int(port)))
        except OSError:
            opened.close()
            raise
        if not address.is_loopback:
            if not address.is_unspecified:
                self._trusted.append(ipaddress.ip_network(address))
            if not self.given("trusted"):
                self.core.log.warning("mi_datagram: only this machine is answered; set `trusted` for other addresses")
        return opened

    def _open_unix(self, path: str) -> socket.socket:
        if len(os.fsencode(path)) > UNIX_PATH_LIMIT:
            raise StartError(f"mi_datagram: the path of a Unix socket has at most {UNIX_PATH_LIMIT} bytes")
        user, group = user_id(self.unix_socket_user), group_id(self.unix_socket_group)
        try:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise StartError(f"mi_datagram: {path} exists and is no socket")
            os.unlink(path)
        except FileNotFoundError:
            pass
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            # Nobody gets in between bind and chmod: the rights are narrow until they are set.
            before = os.umask(0o177)
            try:
                opened.bind(path)
            finally:
                os.umask(before)
            if user != -1 or group != -1:
                os.chown(path, user, group, follow_symlinks=False)
            os.chmod(path, self.unix_socket_mode or 0o600)
        except OSError:
            opened.close()
            raise
        self._path = path
        return opened

    async def stop(self) -> None:
        if self._socket is None:
            return
        self._pause()
        self._socket.close()
        self._socket = None
        if self._path:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass  # somebody else has removed it
            self._path = ""

    @property
    def address(self) -> Any:
        """Where the socket is bound, also when the port was left to the system with 0."""
        assert self._socket is not None, "started"
        return self._socket.getsockname()

    # --- requests

    def _resume(self) -> None:
        if self._socket is not None and not self._reading:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)
            self._reading = True

    def _pause(self) -> None:
        if self._socket is not None and self._reading:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._reading = False

    def _readable(self) -> None:
        for _ in range(BURST):
            if self._socket is None:
                return
            if self._inside >= RUNNING_LIMIT:
                self._pause()
                return
            try:
                # One byte more than is allowed tells a datagram that was cut off.
                data, sender = self._socket.recvfrom(self.socket_buf_size + 1)
            except BlockingIOError:
                return
            except OSError as error:
                # An ICMP answer to one of our replies is reported here; it is not about this request.
                self.core.log.debug("mi_datagram: %s", error)
                continue
            if not self._is_trusted(sender):
                self._refused += 1
                if self._refused == 1:
                    self.core.log.warning("mi_datagram: request from %s dropped, it is not `trusted`", sender[0])
                continue
            self._inside += 1
            self.core.spawn(self._serve(data, sender), "mi_datagram request")

    def _is_trusted(self, sender: Any) -> bool:
        if not isinstance(sender, tuple):
            return True  # the rights of the Unix socket's file decide
        address = _plain(sender[0])
        return any(address in network for network in self._trusted)

    async def _serve(self, data: bytes, sender: Any) -> None:
        try:
            if len(data) > self.socket_buf_size:
                response: bytes | None = self._error(f"a request has at most {self.socket_buf_size} bytes")
            else:
                response = await self.answer(data, self._ends(sender))
            if response is None or not sender:
                return
            if len(response) > self.socket_buf_size:
                response = self._error("the answer does not fit into a datagram (socket_buf_size)", data)
            await self._send(response, sender)
        except (OSError, TimeoutError) as error:
            self.core.log.warning("mi_datagram: no answer to %s: %s", sender, error or "timeout")
        finally:
            self._inside -= 1
            self._resume()

    def _ends(self, sender: Any) -> Ends | None:
        """Who asks and who answers, over UDP."""
        if not isinstance(sender, tuple):
            return None
        asker, here = _plain(sender[0]), _plain(self.address[0])
        if asker.version != here.version:
            # IPv4 that reaches a socket of IPv6, bound to no address.
            here = ipaddress.ip_address("0.0.0.0" if asker.version == 4 else "::")
        return (str(asker), int(sender[1])), (str(here), int(self.address[1]))

    @staticmethod
    def _error(text: str, request: bytes = b"") -> bytes:
        try:
            value = jsonrpc.decode(request)
        except jsonrpc.Unreadable:
            value = None
        id = value.get("id") if isinstance(value, dict) else None
        return jsonrpc.encode(jsonrpc.error_response(SERVER_ERROR, "Server error", text, id))

    async def _send(self, data: bytes, sender: Any) -> None:
        """Send, waiting for room as long as `socket_timeout` allows: a client may not read its Unix socket."""
        deadline = asyncio.get_running_loop().time() + self.socket_timeout / 1000
        pause = 0.005
        while self._socket is not None:
            try:
                self._socket.sendto(data, sender)
                return
            except BlockingIOError:
                # A full peer does not make our own socket unwritable, so there is nothing to select on.
                if asyncio.get_running_loop().time() >= deadline:
                    raise TimeoutError("the client does not read") from None
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.1)


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Without a zone, and IPv4 as such where it came to a socket of IPv6."""
    read = ipaddress.ip_address(str(address).partition("%")[0])
    return getattr(read, "ipv4_mapped", None) or read
