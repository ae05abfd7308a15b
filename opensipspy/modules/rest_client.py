"""rest_client: HTTP requests of scripts; aiohttp carries them (extra `http`).

A script that asks waits for the answer, other messages do not. aiohttp, which takes a third of a second to import, is
loaded in a thread when the module starts.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from opensipspy.module import (
    Module,
    Omittable,
    Param,
    ParamError,
    StartError,
    WritableVar,
    script_function,
    transformation,
)
from opensipspy.module.tls import TlsDomains
from opensipspy.script.kinds import ALL
from opensipspy.script.run import Run, Value, VarRef

if TYPE_CHECKING:
    import aiohttp

OK: Final = 1
REFUSED: Final = -1
CONNECT_TIMEOUT: Final = -2
TRANSFER_TIMEOUT: Final = -3
ALREADY_CONNECTING: Final = -4
FAILED: Final = -10

FORM: Final = "application/x-www-form-urlencoded"
MAX_TRANSFERS: Final = 10_000
"""Requests that run or wait for a connection; a further one fails at once."""
MAX_FIELDS: Final = 100
"""Header fields that one request may carry."""
MAX_FIELD: Final = 8190
"""Characters of one header field."""
MAX_HOSTS: Final = 1000
"""Hosts whose last connection is remembered."""
KEEP_S: Final = 15
"""How long an idle connection is kept where `curl_conn_lifetime` says nothing."""
FIELDS: Final = "rest_client.fields"
"""Where a message keeps the header fields of its next request (`run.ctx`)."""
TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
TLS: Final = "rest_client.tls"
"""Where a message keeps the TLS context of its next request (`run.ctx`)."""
EXPECT_ABOVE: Final = 1024
"""Octets of a body that is announced first, where `enable_expect_100` says so."""
EXPECT_S: Final = 1.0
"""How long such a body waits for the server's word (RFC 9110 §10.1.1)."""
OWN_FIELDS: Final = frozenset({"content-length", "transfer-encoding"})
"""What frames the body is not the script's: a wrong one would let the body pass for a second request."""


class TooLarge(Exception):
    """An answer is longer than `max_transfer_size`."""


class Transfer:
    """One request and what has come back so far."""

    __slots__ = ("body", "connected", "content_type", "holds_host", "host", "status")

    def __init__(self, host: str, holds_host: bool) -> None:
        self.host = host
        self.holds_host = holds_host
        self.connected = False
        self.status = 0
        self.content_type: str | None = None
        self.body = bytearray()


class RestClient(Module):
    """Ask HTTP servers: GET, POST and PUT, with time-outs, header fields and limits."""

    name = "rest_client"
    wants = ("tls_mgm",)

    connection_timeout = Param(int, 20, "Longest time until a connection is there; 0 for no limit.", unit="s")
    curl_timeout = Param(int, 20, "Longest time of a whole request; 0 for no limit.", unit="s")
    connect_poll_interval = Param(int, 20, "Accepted for compatibility: connections are not polled.", unit="ms")
    max_async_transfers = Param(int, 100, "Connections at the same time; further requests wait for one.")
    max_transfer_size = Param(int, 10240, "Longest body of an answer; 0 for no limit.", unit="KiB")
    ssl_verifypeer = Param(int, 1, "Whether the certificate of a server has to be valid.")
    ssl_verifyhost = Param(int, 1, "Whether the certificate has to be for that host; off without `ssl_verifypeer`.")
    ssl_capath = Param(str, "", "File or directory of further certificate authorities.")
    curl_http_version = Param(int, 0, "1 for HTTP/1.0, 2 for HTTP/1.1; 0, 3 and 4 are HTTP/1.1 too.")
    enable_expect_100 = Param(
        int, 0, "Whether a body above 1024 octets is sent only when the server says `100 Continue`, or after a second."
    )
    no_concurrent_connects = Param(int, 0, "Whether only one request at a time may be connecting to a host.")
    curl_conn_lifetime = Param(
        int, 0, "How long a connection is kept, and its host free of `no_concurrent_connects`.", unit="s"
    )

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        for name in ("connection_timeout", "curl_timeout", "max_transfer_size", "curl_conn_lifetime"):
            if getattr(self, name) < 0:
                raise ParamError(self.name, name, "is not below 0")
        if self.max_async_transfers < 1:
            raise ParamError(self.name, "max_async_transfers", "is at least 1")
        if not 0 <= self.curl_http_version <= 4:
            raise ParamError(self.name, "curl_http_version", "is 0 to 4", "HTTP/2 without TLS is not supported")
        self._http: Any = None
        self._session: aiohttp.ClientSession | None = None
        self._transfers = 0
        self._connecting: set[str] = set()
        self._connected: dict[str, float] = {}

    # --- life

    async def start(self) -> None:
        if importlib.util.find_spec("aiohttp") is None:
            raise StartError("rest_client needs the Python package aiohttp: pip install 'opensipspy[http]'")
        tls = await asyncio.to_thread(self._tls_context)
        http = self._http = await asyncio.to_thread(importlib.import_module, "aiohttp")
        trace = http.TraceConfig()
        trace.on_connection_create_end.append(self._on_connection)
        trace.on_connection_reuseconn.append(self._on_connection)
        self._session = http.ClientSession(
            connector=http.TCPConnector(
                ssl=tls, limit=self.max_async_transfers, keepalive_timeout=self.curl_conn_lifetime or KEEP_S
            ),
            timeout=http.ClientTimeout(total=self.curl_timeout or None, connect=self.connection_timeout or None),
            version=http.HttpVersion10 if self.curl_http_version == 1 else http.HttpVersion11,
            # A cookie that one caller's request brought has no business in the next one's.
            cookie_jar=http.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
            auto_decompress=False,
            trace_configs=[trace],
            request_class=_patient(http.ClientRequest),
        )

    async def stop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _tls_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        try:
            if self.ssl_capath and Path(self.ssl_capath).is_dir():
                context.load_verify_locations(capath=self.ssl_capath)
            elif self.ssl_capath:
                context.load_verify_locations(cafile=self.ssl_capath)
        except OSError as error:
            raise StartError(f"rest_client: ssl_capath {self.ssl_capath} cannot be used: {error}") from error
        if not (self.ssl_verifypeer and self.ssl_verifyhost):
            context.check_hostname = False
        if not self.ssl_verifypeer:
            context.verify_mode = ssl.CERT_NONE
        return context

    # --- for scripts

    @script_function(routes=ALL)
    def rest_append_hf(self, run: Run, txt: str) -> int:
        """Add a header field, "Name: value", to the next request of this message.

        Returns 1; -1 when the text is no header field, when it frames the body, or when there are too many.
        """
        name, colon, value = txt.strip().partition(":")
        value = value.strip()
        fields = run.ctx.setdefault(FIELDS, [])
        assert isinstance(fields, list)
        if not colon or not name or not TOKEN.issuperset(name) or len(txt) > MAX_FIELD or has_control(value):
            self.core.log.error("rest_append_hf(): this is no HTTP header field")
            return -1
        if name.lower() in OWN_FIELDS or len(fields) >= MAX_FIELDS:
            self.core.log.error("rest_append_hf(): %s cannot be added", name)
            return -1
        fields.append((name, value))
        return 1

    @script_function(routes=ALL)
    def rest_init_client_tls(self, run: Run, tls_client_domain: str) -> int:
        """Use the TLS client domain of this name, of the module tls_mgm, for the next request of this message.

        Returns 1; -1 when tls_mgm is not loaded or has no such domain.
        """
        run.ctx.pop(TLS, None)
        try:
            # The rule that an abstract class is no type argument is for constructors; this is a look-up by class.
            domains = self.core.api("tls_mgm", TlsDomains)  # type: ignore[type-abstract]
            run.ctx[TLS] = domains.client_context(tls_client_domain or "")
        except LookupError as error:
            self.core.log.error("rest_init_client_tls(): %s", error)
            return -1
        return 1

    @script_function(routes=ALL, async_ok=True)
    async def rest_get(
        self,
        run: Run,
        url: str,
        body_pv: Annotated[VarRef, WritableVar()],
        ctype_pv: Annotated[VarRef | None, WritableVar()] = None,
        retcode_pv: Annotated[VarRef | None, WritableVar()] = None,
    ) -> int:
        """GET a URL; the answer's body, content type and status are written. The status is 0 when no answer came.

        Returns 1 for an answer of any status; -1 when the connection was refused, -2 when it took longer than
        `connection_timeout`, -3 when the whole took longer than `curl_timeout` (the body is what came until then), -4
        when another request is connecting to this host (`no_concurrent_connects`), -10 for anything else.
        """
        return await self._ask(run, "GET", url, None, None, (body_pv, ctype_pv, retcode_pv))

    @script_function(routes=ALL, async_ok=True)
    async def rest_post(
        self,
        run: Run,
        url: str,
        send_body: str,
        send_ctype: Annotated[str | None, Omittable()],
        recv_body_pv: Annotated[VarRef, WritableVar()],
        recv_ctype_pv: Annotated[VarRef | None, WritableVar()] = None,
        retcode_pv: Annotated[VarRef | None, WritableVar()] = None,
    ) -> int:
        """POST a body to a URL, of type `application/x-www-form-urlencoded` unless told; returns as `rest_get()`."""
        return await self._ask(run, "POST", url, send_body, send_ctype, (recv_body_pv, recv_ctype_pv, retcode_pv))

    @script_function(routes=ALL, async_ok=True)
    async def rest_put(
        self,
        run: Run,
        url: str,
        send_body: str,
        send_ctype: Annotated[str | None, Omittable()],
        recv_body_pv: Annotated[VarRef, WritableVar()],
        recv_ctype_pv: Annotated[VarRef | None, WritableVar()] = None,
        retcode_pv: Annotated[VarRef | None, WritableVar()] = None,
    ) -> int:
        """PUT a body to a URL, of type `application/x-www-form-urlencoded` unless told; returns as `rest_get()`."""
        return await self._ask(run, "PUT", url, send_body, send_ctype, (recv_body_pv, recv_ctype_pv, retcode_pv))

    @transformation("rest.escape")
    def escape(self, value: Value) -> Value:
        """The text with every octet that is not unreserved as %XX (RFC 3986 §2.3)."""
        text = "" if value is None else str(value)
        return quote_from_bytes(text.encode("utf-8", "surrogateescape"), safe="")

    @transformation("rest.unescape")
    def unescape(self, value: Value) -> Value:
        """The text with every %XX as the octet that it stands for (RFC 3986 §2.1)."""
        text = "" if value is None else str(value)
        return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    # --- a request

    async def _ask(
        self,
        run: Run,
        method: str,
        url: str,
        body: str | None,
        content_type: str | None,
        variables: tuple[VarRef, VarRef | None, VarRef | None],
    ) -> int:
        fields: Any = run.ctx.pop(FIELDS, [])
        tls: Any = run.ctx.pop(TLS, None)
        if body is not None and (content_type or not any(name.lower() == "content-type" for name, _ in fields)):
            fields = [*fields, ("Content-Type", content_type or FORM)]
        body_var, type_var, status_var = variables
        transfer = self._prepare(url)
        if isinstance(transfer, int):
            result = transfer
            transfer = Transfer("", False)
        else:
            data = None if body is None else body.encode("utf-8", "surrogateescape")
            result = await self.core.wait(self._carry(transfer, method, url, fields, data, tls))
        if result in (OK, TRANSFER_TIMEOUT):
            body_var.set(run, transfer.body.decode("utf-8", "surrogateescape"))
            if type_var is not None:
                type_var.set(run, transfer.content_type)
        if status_var is not None:
            status_var.set(run, transfer.status)
        return result

    def _prepare(self, url: str) -> Transfer | int:
        """What a request to this URL starts with, or the code of why there cannot be one."""
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or has_control(url):
            self.core.log.error("rest_client: a URL has the form http://host/path or https://host/path")
            return FAILED
        if self._session is None or self._transfers >= MAX_TRANSFERS:
            self.core.log.error("rest_client: no request is possible now")
            return FAILED
        if not self.no_concurrent_connects or self._known(host):
            return Transfer(host, False)
        if host in self._connecting:
            return ALREADY_CONNECTING
        self._connecting.add(host)
        return Transfer(host, True)

    def _known(self, host: str) -> bool:
        """Whether a connection to the host is young enough to be there still."""
        since = self._connected.get(host)
        return since is not None and self.core.now() - since < self.curl_conn_lifetime

    async def _carry(
        self, transfer: Transfer, method: str, url: str, fields: Any, data: bytes | None, tls: ssl.SSLContext | None
    ) -> int:
        """Make the request; the code for the script. Never raises for the network."""
        http = self._http
        announced = bool(self.enable_expect_100 and data is not None and len(data) > EXPECT_ABOVE)
        assert self._session is not None
        self._transfers += 1
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                headers=fields,
                allow_redirects=False,
                expect100=announced,
                # True is the connector's own context, made of the parameters ssl_*.
                ssl=True if tls is None else tls,
                trace_request_ctx=transfer,
            ) as response:
                transfer.status = response.status
                transfer.content_type = response.headers.get("Content-Type")
                await self._read(transfer, response)
            return OK
        except TimeoutError:
            code = TRANSFER_TIMEOUT if transfer.connected else CONNECT_TIMEOUT
            reason = "the answer took too long" if transfer.connected else "no connection in time"
        except TooLarge:
            code, reason = FAILED, f"the answer is longer than {self.max_transfer_size} KiB"
        except (http.ClientConnectorDNSError, http.ClientSSLError) as error:
            code, reason = FAILED, type(error).__name__
        except http.ClientConnectorError:
            code, reason = REFUSED, "connection refused"
        except (http.ClientError, OSError, ValueError) as error:
            # Not its text: that may hold the URL, and a URL may hold a password.
            code, reason = FAILED, type(error).__name__
        finally:
            self._transfers -= 1
            self._release(transfer)
        self.core.log.error("rest_client: %s %s: %s", method, transfer.host, reason)
        return code

    async def _read(self, transfer: Transfer, response: aiohttp.ClientResponse) -> None:
        limit = self.max_transfer_size * 1024
        async for part in response.content.iter_any():
            if limit and len(transfer.body) + len(part) > limit:
                raise TooLarge
            transfer.body += part

    async def _on_connection(self, session: object, context: Any, params: object) -> None:
        """aiohttp has a connection for a request, a new one or one that was kept."""
        transfer: Transfer = context.trace_request_ctx
        transfer.connected = True
        self._release(transfer)
        if self.no_concurrent_connects and self.curl_conn_lifetime:
            self._connected.pop(transfer.host, None)
            self._connected[transfer.host] = self.core.now()
            if len(self._connected) > MAX_HOSTS:
                del self._connected[next(iter(self._connected))]

    def _release(self, transfer: Transfer) -> None:
        if transfer.holds_host:
            transfer.holds_host = False
            self._connecting.discard(transfer.host)


def has_control(text: str) -> bool:
    """Whether a control character could end a line of the request early."""
    return any((char < " " and char != "\t") or char == "\x7f" for char in text)


def _patient(request: Any) -> Any:
    """aiohttp's request class, which waits for `100 Continue` for as long as the request may take; not so this one."""

    class PatientRequest(request):  # type: ignore[misc]
        async def send(self, conn: Any) -> Any:
            if self._continue is not None:
                self.loop.call_later(EXPECT_S, _go_on, self._continue)
            return await super().send(conn)

    return PatientRequest


def _go_on(waiting: asyncio.Future[bool]) -> None:
    if not waiting.done():
        waiting.set_result(True)
