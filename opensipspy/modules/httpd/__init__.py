"""The HTTP server that other modules answer through; aiohttp carries it (extra `http`).

The socket listens when the module starts, so that a taken port stops the start; aiohttp, which takes a third of a
second to import, is loaded by a thread after that, while SIP is served already. Clients wait in the backlog meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import importlib
import importlib.util
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opensipspy.management import Json
from opensipspy.module import Module, Param, StartError, Timer, mi_command

from .api import Handler, HttpdApi, HttpRequest, HttpResponse

if TYPE_CHECKING:
    from aiohttp import web

BACKLOG: Final = 128
CONNECTION_LIMIT: Final = 500
"""Open connections; a further one is closed at once."""
HEAD_LIMIT: Final = 8190
"""Bytes of a request line, and of a header field."""
REASON_LIMIT: Final = 160
"""Characters of a log line that may come from a peer."""
SWEEP_S: Final = 1.0
STOP_S: Final = 2.0
"""How long requests that are being answered may take when the server stops."""
DEFAULT_CIPHERS: Final = "SECURE256:+SECURE192:-VERS-ALL:+VERS-TLS1.2"


class ServerLog:
    """What aiohttp says of a request that it cannot read: one line each, as nonsense of a peer is no failure."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def debug(self, text: str, *args: object, **_: object) -> None:
        self._log.debug("httpd: " + text, *args)

    def exception(self, text: str, *args: object, exc_info: object = None) -> None:
        reason = " ".join(str(exc_info).split())[:REASON_LIMIT]
        self._log.warning("httpd: " + text + ": %s", *args, reason)


class Mount:
    """A root path and who answers below it."""

    __slots__ = ("handler", "owner", "root")

    def __init__(self, root: str, handler: Handler, owner: str) -> None:
        self.root = root
        self.handler = handler
        self.owner = owner


class Httpd(Module, HttpdApi):
    """HTTP server for other modules."""

    name = "httpd"

    ip = Param(str, "127.0.0.1", "Address to listen on; `*` is every IPv4 and IPv6 address.")
    port = Param(int, 8888, "Port to listen on, 1024 or higher.")
    conn_timeout = Param(int, 30, "Close connections that bring no complete request for so long; 0 never.", unit="s")
    buf_size = Param(int, 0, "Longest response body that is sent; 0 for any.", unit="bytes")
    post_buf_size = Param(int, 1024, "Least size that request bodies are allowed to have, at least 256.", unit="bytes")
    receive_buf_size = Param(int, 1024, "Longest request body that is taken.", unit="bytes")
    tls_cert_file = Param(str, "", "Certificate file (PEM); with tls_key_file it makes the server HTTPS.")
    tls_key_file = Param(str, "", "Private key file (PEM).")
    tls_ciphers = Param(str, DEFAULT_CIPHERS, "Allowed ciphers and versions, as a GnuTLS priority or an OpenSSL list.")
    auth_realm = Param(str, "OpenSIPS MI", "Realm of the HTTP Basic challenge.")
    auth_username = Param(str, "", "User name that every request has to show; empty asks for none.")
    auth_password = Param(str, "", "Password of auth_username.")

    sweep = Timer(SWEEP_S, "end_idle")

    def __init__(self, **params: object) -> None:
        super().__init__(**params)
        self._mounts: dict[str, Mount] = {}
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._aiohttp: Any = None
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._seen: dict[Any, float] = {}
        self._busy: set[Any] = set()
        self.serving = asyncio.Event()
        """Set when requests are answered."""

    @property
    def body_limit(self) -> int:
        """Bytes of the longest request body."""
        return max(self.receive_buf_size, self.post_buf_size)

    # --- life

    async def start(self) -> None:
        if importlib.util.find_spec("aiohttp") is None:
            raise StartError("httpd needs the Python package aiohttp: pip install 'opensipspy[http]'")
        if bool(self.auth_username) != bool(self.auth_password):
            raise StartError("httpd: auth_username and auth_password belong together, one is missing")
        if self.post_buf_size < 256:
            raise StartError("httpd: post_buf_size is at least 256")
        self._tls = self._tls_context()
        self._socket = self._listen()
        self.core.spawn(self._serve(), "httpd start")

    def _listen(self) -> socket.socket:
        if self.port != 0 and not 1024 <= self.port <= 65535:
            raise StartError(f"httpd: port {self.port} is not between 1024 and 65535")
        every = self.ip == "*"
        family = socket.AF_INET6 if every or ":" in self.ip else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if every else 1)
            listening.setblocking(False)
            listening.bind(("::" if every else self.ip, self.port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            raise StartError(f"httpd cannot listen on {self.ip}:{self.port}: {error.strerror or error}") from error
        return listening

    @property
    def address(self) -> tuple[str, int]:
        """Where the server listens, also when the port was left to the system with 0."""
        assert self._socket is not None, "started"
        name = self._socket.getsockname()
        return str(name[0]), int(name[1])

    def _tls_context(self) -> ssl.SSLContext | None:
        if not self.tls_cert_file and not self.tls_key_file:
            return None
        if not self.tls_cert_file or not self.tls_key_file:
            raise StartError("httpd: tls_cert_file and tls_key_file belong together, one is missing")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            apply_ciphers(context, self.tls_ciphers)
            context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
        except (OSError, ValueError) as error:
            raise StartError(f"httpd: TLS: {error}") from error
        return context

    async def _serve(self) -> None:
        self._aiohttp = await asyncio.to_thread(importlib.import_module, "aiohttp.web")
        if self._socket is None:
            return
        # The time-out that aiohttp has is for the pause between requests; the sweep also ends clients that
        # never finish their first one.
        idle = float(self.conn_timeout) if self.conn_timeout > 0 else 1e9
        self._server = self._aiohttp.Server(
            self._answer,
            keepalive_timeout=idle,
            access_log=None,
            logger=ServerLog(self.core.log),
            max_line_size=HEAD_LIMIT,
            max_field_size=HEAD_LIMIT,
        )
        self._listener = await asyncio.get_running_loop().create_server(self._accept, sock=self._socket, ssl=self._tls)
        self.serving.set()

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        elif self._socket is not None:
            self._socket.close()
        self._socket = None
        if self._server is not None:
            await self._server.shutdown(STOP_S)
            self._server = None

    def _accept(self) -> asyncio.BaseProtocol:
        assert self._server is not None
        if len(self._server.connections) >= CONNECTION_LIMIT:
            return Refuse()
        protocol = self._server()
        self._seen[protocol] = self.core.now()
        return protocol

    def end_idle(self) -> None:
        """Close connections that have brought no complete request for `conn_timeout` seconds."""
        if self._server is None:
            return
        alive = set(self._server.connections)
        self._seen = {protocol: seen for protocol, seen in self._seen.items() if protocol in alive}
        if self.conn_timeout <= 0:
            return
        oldest = self.core.now() - self.conn_timeout
        for protocol, seen in self._seen.items():
            if seen <= oldest and protocol not in self._busy and protocol.transport is not None:
                protocol.transport.abort()

    # --- answering

    def mount(self, root: str, handler: Handler, owner: str) -> None:
        name = root.strip("/")
        if not name:
            raise ValueError("a root path cannot be empty")
        if name in self._mounts:
            raise ValueError(f"/{name} belongs to {self._mounts[name].owner} already")
        self._mounts[name] = Mount(name, handler, owner)

    @mi_command("httpd:list_root_path", aliases=("httpd_list_root_path",))
    def list_root_path(self) -> Json:
        """List the root paths and the modules that answer there."""
        return [{"http_root": mount.root, "module": mount.owner} for mount in self._mounts.values()]

    def _find(self, path: str) -> Mount | None:
        parts = path.strip("/").split("/")
        for length in range(len(parts), 0, -1):
            found = self._mounts.get("/".join(parts[:length]))
            if found is not None:
                return found
        return None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        self._busy.add(protocol)
        try:
            response = await self._respond(request)
        except TimeoutError:
            response = HttpResponse(408, b"the request did not arrive in time\n")
        finally:
            self._busy.discard(protocol)
            self._seen[protocol] = self.core.now()
        if self.buf_size > 0 and len(response.body) > self.buf_size:
            self.core.log.error("httpd: response of %d bytes, buf_size allows %d", len(response.body), self.buf_size)
            response = HttpResponse(500, b"the response is longer than buf_size allows\n")
        headers = {"Content-Type": response.content_type, "X-Content-Type-Options": "nosniff", **response.headers}
        answer: web.Response = self._aiohttp.Response(status=response.status, body=response.body, headers=headers)
        if response.status in (408, 413):
            answer.force_close()
        return answer

    async def _respond(self, request: web.BaseRequest) -> HttpResponse:
        if not self._authorized(request.headers.get("Authorization", "")):
            realm = self.auth_realm.replace("\\", "\\\\").replace('"', '\\"')
            challenge = {"WWW-Authenticate": f'Basic realm="{realm}", charset="UTF-8"'}
            return HttpResponse(401, b"unauthorized\n", headers=challenge)
        if not same_origin(request.headers.get("Origin", ""), request.headers.get("Host", "")):
            return HttpResponse(403, b"requests from pages of other sites are not answered\n")
        mount = self._find(request.path)
        if mount is None:
            return HttpResponse(404, b"nothing is served here\n")
        body = await self._body(request)
        if body is None:
            return HttpResponse(413, f"the body is longer than {self.body_limit} bytes (receive_buf_size)\n".encode())
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), value)
        seen = HttpRequest(request.method, request.path, dict(request.query), headers, body, request.remote or "")
        try:
            return await mount.handler(seen)
        except Exception:
            self.core.log.exception("httpd: %s failed on %s /%s", mount.owner, request.method, mount.root)
            return HttpResponse(500, b"internal error\n")

    async def _body(self, request: web.BaseRequest) -> bytes | None:
        """The whole body, None when it is too long. Raises TimeoutError when it does not arrive."""
        limit = self.body_limit
        if (request.content_length or 0) > limit:
            return None
        async with asyncio.timeout(self.conn_timeout or None):
            data = bytearray()
            async for piece in request.content.iter_any():
                data += piece
                if len(data) > limit:
                    return None
        return bytes(data)

    def _authorized(self, header: str) -> bool:
        if not self.auth_username:
            return True
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except binascii.Error:
            return False
        # Compared in one piece and in constant time: nothing tells which of the two was wrong.
        return hmac.compare_digest(given, f"{self.auth_username}:{self.auth_password}".encode())


class Refuse(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def same_origin(origin: str, host: str) -> bool:
    """Whether a request that a browser made comes from a page of this server; other clients send no Origin.

    Without this any web page could post commands to the loopback address of the machine that shows it.
    """
    return not origin or urlsplit(origin).netloc.lower() == host.lower()


_VERSIONS: Final = {
    "VERS-TLS1.0": ssl.TLSVersion.TLSv1,
    "VERS-TLS1.1": ssl.TLSVersion.TLSv1_1,
    "VERS-TLS1.2": ssl.TLSVersion.TLSv1_2,
    "VERS-TLS1.3": ssl.TLSVersion.TLSv1_3,
}
_CIPHERS: Final = {
    "SECURE256": "AES256:CHACHA20",
    "SECURE192": "AES256:CHACHA20",
    "SECURE128": "AES128:AES256:CHACHA20",
    "NORMAL": "HIGH",
    "PERFORMANCE": "HIGH",
    "PFS": "ECDHE:DHE",
}


def apply_ciphers(context: ssl.SSLContext, text: str) -> None:
    """Set ciphers and versions from a GnuTLS priority text or an OpenSSL cipher list. Raises ValueError.

    Of a priority text the levels (`SECURE256`, `NORMAL` ...) and the versions are understood, nothing finer.
    """
    words = [word for word in text.split(":") if word]
    bare = {word.lstrip("+-!") for word in words}
    if not bare & _CIPHERS.keys() and not any(word.startswith("VERS-") for word in bare):
        context.set_ciphers(text)
        return
    versions = {ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3}
    chosen: list[str] = []
    for word in words:
        name, away = word.lstrip("+-!"), word[0] in "-!"
        if name == "VERS-ALL":
            versions = set() if away else set(_VERSIONS.values())
        elif name in _VERSIONS:
            (versions.discard if away else versions.add)(_VERSIONS[name])
        elif name in _CIPHERS:
            if not away:
                chosen.append(_CIPHERS[name])
        else:
            raise ValueError(f"tls_ciphers: {word} is not understood; an OpenSSL cipher list may be given instead")
    if not versions:
        raise ValueError("tls_ciphers allows no TLS version")
    context.minimum_version, context.maximum_version = min(versions), max(versions)
    context.set_ciphers(":".join(chosen or ["HIGH"]) + ":!aNULL:!eNULL")
