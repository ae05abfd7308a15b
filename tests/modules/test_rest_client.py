"""rest_client: requests to a real HTTP server, its slow, huge and broken answers, and the limits."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from opensipspy.module import Module, ParamError, StartError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.module.tls import TlsDomain, TlsDomains
from opensipspy.modules.rest_client import RestClient
from opensipspy.script.run import Run

from .asynchronous import in_loop


class Lab:
    """A module and an HTTP server; what the server saw is in `seen`, slow answers wait for `go`."""

    def __init__(self, **params: Any) -> None:
        self.core = FakeCore()
        self.module = self.core.add(RestClient(**params))
        self.seen: list[tuple[web.BaseRequest, bytes]] = []
        self.arrived = asyncio.Semaphore(0)
        self.go = asyncio.Event()
        self.port = 0
        self.body, self.ctype, self.status = make_var("body"), make_var("ctype"), make_var("status")

    def run(self) -> Run:
        return make_run(request(), core=self.core)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def get(self, run: Run, path: str) -> int:
        url = path if "://" in path else self.url(path)
        return int(await self.core.call("rest_get", run, url, self.body, self.ctype, self.status))

    def got(self, run: Run) -> tuple[Any, Any, Any]:
        return self.body.get(run), self.ctype.get(run), self.status.get(run)

    async def answer(self, got: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((got, await got.read()))
        self.arrived.release()
        if got.path == "/slow":
            await self.go.wait()
        elif got.path == "/half":
            response = web.StreamResponse(headers={"Content-Length": "100"})
            await response.prepare(got)
            await response.write(b"half")
            await self.go.wait()
            return response
        elif got.path == "/huge":
            return web.Response(body=b"x" * 5000)
        elif got.path == "/moved":
            return web.Response(status=302, headers={"Location": "/", "Set-Cookie": "a=b"})
        return web.Response(text=f"{got.method} ü", headers={"X-Path": got.path})


@asynccontextmanager
async def lab(**params: Any) -> AsyncIterator[Lab]:
    made = Lab(**params)
    runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    await made.module.start()
    try:
        yield made
    finally:
        made.go.set()
        await made.module.stop()
        await runner.cleanup()


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[int]:
    """A server that sends these octets to everyone and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@in_loop
async def test_get_gives_body_type_and_status() -> None:
    async with lab() as it:
        run = it.run()
        assert await it.get(run, "/a?b=c%26d") == 1
        assert it.got(run) == ("GET ü", "text/plain; charset=utf-8", 200)
        got = it.seen[0][0]
        assert got.raw_path == "/a?b=c%26d"
        assert not {"Accept-Encoding", "User-Agent", "Content-Type"} & set(got.headers)


@in_loop
async def test_post_and_put_send_a_body_and_its_type() -> None:
    async with lab() as it:
        run = it.run()
        assert await it.core.call("rest_post", run, it.url("/p"), "a=ü", None, it.body) == 1
        assert it.body.get(run) == "POST ü"
        assert await it.core.call("rest_put", run, it.url("/p"), "{}", "application/json", it.body) == 1
        it.core.call("rest_append_hf", run, "Content-Type: text/own")
        assert await it.core.call("rest_post", run, it.url("/p"), "x", None, it.body) == 1
        assert [(got.headers["Content-Type"], data) for got, data in it.seen] == [
            ("application/x-www-form-urlencoded", "a=ü".encode()),
            ("application/json", b"{}"),
            ("text/own", b"x"),
        ]


@in_loop
async def test_added_header_fields_go_with_the_next_request_of_that_message_only() -> None:
    async with lab() as it:
        run, other = it.run(), it.run()
        for field in ("X-A: 1\r\n", "X-A: 2", "Authorization: Bearer t"):
            assert it.core.call("rest_append_hf", run, field) == 1
        await it.get(other, "/")
        await it.get(run, "/")
        await it.get(run, "/")
        assert [got.headers.getall("X-A", []) for got, _ in it.seen] == [[], ["1", "2"], []]
        assert it.seen[1][0].headers["Authorization"] == "Bearer t"


@pytest.mark.parametrize(
    "field", ["", "no field", ": x", "A b: c", "X: a\r\nY: b", "X: a\0", "Content-Length: 5", "transfer-encoding: x"]
)
def test_a_text_that_would_break_the_request_is_no_header_field(field: str) -> None:
    core = FakeCore()
    core.add(RestClient())
    assert core.call("rest_append_hf", make_run(request(), core=core), field) == -1


def test_header_fields_of_a_request_are_limited() -> None:
    core = FakeCore()
    core.add(RestClient())
    run = make_run(request(), core=core)
    codes = [core.call("rest_append_hf", run, "X: y") for _ in range(101)]
    assert codes == [1] * 100 + [-1]


@in_loop
async def test_a_redirect_is_an_answer_and_no_cookie_is_kept() -> None:
    async with lab() as it:
        run = it.run()
        assert await it.get(run, "/moved") == 1
        assert it.status.get(run) == 302
        await it.get(run, "/")
        assert "Cookie" not in it.seen[1][0].headers


@in_loop
async def test_requests_of_several_messages_run_at_the_same_time() -> None:
    async with lab() as it:
        runs = [it.run() for _ in range(20)]
        tasks = [asyncio.create_task(it.get(run, "/slow")) for run in runs]
        for _ in tasks:
            await it.arrived.acquire()
        it.go.set()
        assert await asyncio.gather(*tasks) == [1] * 20


@in_loop
async def test_no_more_connections_than_allowed() -> None:
    async with lab(max_async_transfers=2) as it:
        tasks = [asyncio.create_task(it.get(it.run(), "/slow")) for _ in range(5)]
        await it.arrived.acquire()
        await it.arrived.acquire()
        assert len(it.seen) == 2
        it.go.set()
        assert await asyncio.gather(*tasks) == [1] * 5


@in_loop
async def test_an_answer_that_takes_too_long_leaves_what_came() -> None:
    async with lab(curl_timeout=1) as it:
        run, none = it.run(), it.run()
        assert list(await asyncio.gather(it.get(run, "/half"), it.get(none, "/slow"))) == [-3, -3]
        assert (it.body.get(run), it.status.get(run)) == ("half", 200)
        assert (it.body.get(none), it.status.get(none)) == ("", 0)


@in_loop
async def test_no_connection_in_time() -> None:
    async with lab(connection_timeout=1) as it:
        run = it.run()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            # Accepts and says nothing: TLS never comes about.
            port = silent.getsockname()[1]
            assert await it.get(run, f"https://127.0.0.1:{port}/") == -2
        assert it.status.get(run) == 0


@in_loop
async def test_a_refused_connection() -> None:
    async with lab() as it:
        run = it.run()
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            assert await it.get(run, f"http://127.0.0.1:{unused.getsockname()[1]}/") == -1
        assert it.got(run) == (None, None, 0)


@in_loop
async def test_an_answer_above_the_limit_is_cut_off_and_one_at_no_limit_is_not() -> None:
    async with lab(max_transfer_size=4) as it:
        run = it.run()
        assert await it.get(run, "/huge") == -10
        assert it.body.get(run) is None
    async with lab(max_transfer_size=0) as it:
        run = it.run()
        assert await it.get(run, "/huge") == 1
        assert it.body.get(run) == "x" * 5000


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
@in_loop
async def test_a_broken_answer_is_a_failure(answer: bytes) -> None:
    async with lab() as it, raw_server(answer) as port:
        run = it.run()
        assert await it.get(run, f"http://127.0.0.1:{port}/") == -10
        assert it.body.get(run) is None


@in_loop
async def test_octets_that_are_no_utf_8_are_kept() -> None:
    async with lab() as it, raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff") as port:
        run = it.run()
        assert await it.get(run, f"http://127.0.0.1:{port}/") == 1
        assert it.got(run) == ("\udcff", None, 200)


@pytest.mark.parametrize("url", ["", "host/path", "ftp://host/", "http://", "http://[::1/", "http://h/\r\nX: y"])
@in_loop
async def test_a_url_that_is_none(url: str) -> None:
    async with lab() as it:
        assert await it.core.call("rest_get", it.run(), url, it.body) == -10
        assert it.seen == []


@in_loop
async def test_one_request_connects_to_a_host_at_a_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        async with lab(no_concurrent_connects=1, connection_timeout=1) as it:
            assert list(await asyncio.gather(it.get(it.run(), url), it.get(it.run(), url))) == [-2, -4]
            # Connected is not connecting: the first one waits for its answer here.
            slow = asyncio.create_task(it.get(it.run(), "/slow"))
            await it.arrived.acquire()
            assert await it.get(it.run(), "/") == 1
            it.go.set()
            assert await slow == 1


@in_loop
async def test_a_host_with_a_young_connection_is_not_held() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        async with lab(no_concurrent_connects=1, connection_timeout=1, curl_conn_lifetime=60) as it:
            assert await it.get(it.run(), "/") == 1
            assert list(await asyncio.gather(it.get(it.run(), url), it.get(it.run(), url))) == [-2, -2]
            it.core.advance(61)
            assert list(await asyncio.gather(it.get(it.run(), url), it.get(it.run(), url))) == [-2, -4]


@in_loop
async def test_a_password_of_a_url_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with lab() as it, raw_server(b"x\r\n\r\n") as port:
            assert await it.get(it.run(), f"http://u:secret@127.0.0.1:{port}/?key=secret") == -10
    assert "rest_client: GET 127.0.0.1" in caplog.text
    assert "secret" not in caplog.text


@in_loop
async def test_before_the_start_and_after_the_stop_there_is_no_request() -> None:
    it = Lab()
    assert await it.get(it.run(), "http://127.0.0.1:1/") == -10
    await it.module.start()
    await it.module.stop()
    assert await it.get(it.run(), "http://127.0.0.1:1/") == -10


def test_escape_and_unescape_follow_rfc_3986() -> None:
    module = RestClient()
    assert module.escape("call@example.com&safe=false") == "call%40example.com%26safe%3Dfalse"
    assert module.escape("A-z_0.~/ü") == "A-z_0.~%2F%C3%BC"
    assert module.unescape("1%2B1%3D2%21+%zz%") == "1+1=2!+%zz%"
    assert module.unescape(module.escape("\udcff\0 %")) == "\udcff\0 %"


@pytest.mark.parametrize(
    "params", [{"curl_http_version": 5}, {"curl_timeout": -1}, {"max_async_transfers": 0}, {"max_transfer_size": -1}]
)
def test_values_that_cannot_be(params: dict[str, int]) -> None:
    with pytest.raises(ParamError):
        RestClient(**params)


@in_loop
async def test_http_1_0_when_asked_for() -> None:
    async with lab(curl_http_version=1) as it:
        assert await it.get(it.run(), "/") == 1
        assert it.seen[0][0].version == (1, 0)


@in_loop
async def test_authorities_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="ssl_capath"):
        await RestClient(ssl_capath=str(tmp_path / "none.pem")).start()


def test_tls_settings() -> None:
    strict = RestClient()._tls_context()
    assert strict.check_hostname
    assert strict.verify_mode == ssl.CERT_REQUIRED
    any_host = RestClient(ssl_verifyhost=0)._tls_context()
    assert not any_host.check_hostname
    assert any_host.verify_mode == ssl.CERT_REQUIRED
    assert RestClient(ssl_verifypeer=0)._tls_context().verify_mode == ssl.CERT_NONE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
@in_loop
async def test_a_certificate_has_to_be_valid_and_for_the_host(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    settings: list[tuple[dict[str, Any], int]] = [
        ({}, -10),
        ({"ssl_capath": str(cert)}, -10),
        ({"ssl_capath": str(cert), "ssl_verifyhost": 0}, 1),
        ({"ssl_verifypeer": 0}, 1),
    ]
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for params, expected in settings:
            async with lab(**params) as it:
                assert await it.get(it.run(), url) == expected


class Tls(Module, TlsDomains):
    """Stands in for tls_mgm: one client domain."""

    name = "tls_mgm"

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.context = context

    def server_domain(self, address: str, port: int, name: str = "") -> TlsDomain | None:
        return None

    def client_domain(self, address: str, port: int, sip_domain: str = "", name: str = "") -> TlsDomain | None:
        return None

    def client_context(self, name: str) -> ssl.SSLContext:
        if name != "dom1":
            raise LookupError(f"there is no client domain {name}")
        return self.context


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
@in_loop
async def test_rest_init_client_tls_is_for_the_next_request_only(tmp_path: Path) -> None:
    """Manual, rest_init_client_tls(): a specific TLS domain is used at most once."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cert)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    ours = ssl.create_default_context(cafile=cert)
    ours.load_cert_chain(cert, key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server, lab(ssl_capath=str(cert)) as it:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        run = it.run()
        assert it.core.call("rest_init_client_tls", run, "dom1") == -1, "tls_mgm is not loaded"
        it.core.add(Tls(ours))
        assert it.core.call("rest_init_client_tls", run, "none") == -1
        assert await it.get(run, url) != 1, "the server wants a certificate of ours"
        assert it.core.call("rest_init_client_tls", run, "dom1") == 1
        assert await it.get(it.run(), url) != 1, "another message's request"
        assert await it.get(run, url) == 1
        assert it.got(run)[0] == "ok"
        assert await it.get(run, url) != 1


@pytest.mark.parametrize(("size", "enabled", "announced"), [(1025, 1, True), (1024, 1, False), (5000, 0, False)])
def test_enable_expect_100_announces_a_long_body(
    size: int, enabled: int, announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9110 §10.1.1; this server never says 100."""
    monkeypatch.setattr("opensipspy.modules.rest_client.EXPECT_S", 0.02)

    @in_loop
    async def run() -> None:
        async with lab(enable_expect_100=enabled) as it:
            message = it.run()
            sent = "x" * size
            args = (it.url("/"), sent, None, it.body, it.ctype, it.status)
            assert await it.core.call("rest_post", message, *args) == 1
            assert ("Expect" in it.seen[0][0].headers) is announced
            assert it.seen[0][1].decode() == sent

    run()


@pytest.mark.parametrize(
    ("word", "code", "body"),
    [(b"", 200, True), (b"HTTP/1.1 100 Continue\r\n\r\n", 200, True), (b"417", 417, False)],
    ids=["silent", "continue", "refused"],
)
def test_a_server_that_does_not_know_100_gets_the_body_all_the_same(
    word: bytes, code: int, body: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opensipspy.modules.rest_client.EXPECT_S", 0.02 if not word else 20.0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if word == b"417":
            writer.write(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            writer.write(word)
            await reader.readexactly(2000)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    @in_loop
    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, lab(enable_expect_100=1) as it:
            message = it.run()
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            result = await it.core.call("rest_put", message, url, "x" * 2000, None, it.body, it.ctype, it.status)
            assert (result, it.status.get(message), it.body.get(message)) == (1, code, "ok" if body else "")

    run()
