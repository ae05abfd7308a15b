"""The HTTP server: mounting, limits, authentication, and who is turned away."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opensipspy.module import StartError
from opensipspy.module.testing import FakeCore
from opensipspy.modules.httpd import DEFAULT_CIPHERS, Httpd, apply_ciphers, same_origin
from opensipspy.modules.httpd.api import HttpRequest, HttpResponse

Scenario = Callable[[FakeCore, Httpd], Coroutine[Any, Any, Any]]


def serve(scenario: Scenario, **params: Any) -> Any:
    """Run a scenario against a server on a port of its own, with an echo mounted at /echo."""

    async def echo(request: HttpRequest) -> HttpResponse:
        seen = [request.method, request.path, dict(request.query), request.body.decode()]
        return HttpResponse(200, json.dumps(seen).encode(), "application/json")

    async def main() -> Any:
        core = FakeCore()
        server = core.add(Httpd(port=0, **params))
        server.mount("echo", echo, "test")
        await server.launch()
        try:
            await asyncio.wait_for(server.serving.wait(), 60)
            return await asyncio.wait_for(scenario(core, server), 60)
        finally:
            await server.shutdown()

    return asyncio.run(main())


async def talk(server: Httpd, text: str | bytes) -> tuple[int, dict[str, str], bytes]:
    """Send one request with `Connection: close` and read all of the response."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(text if isinstance(text, bytes) else text.encode())
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split(" ")[1]), headers, body


def post(path: str, body: str = "", **headers: str) -> str:
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Length: {len(body.encode())}\r\n{extra}\r\n{body}"
    )


def test_a_mounted_handler_gets_the_request() -> None:
    async def scenario(core: FakeCore, server: Httpd) -> Any:
        return await talk(server, post("/echo/deep?a=1", "hello"))

    status, headers, body = serve(scenario)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == ["POST", "/echo/deep", {"a": "1"}, "hello"]


def test_nothing_is_served_at_other_paths() -> None:
    async def scenario(core: FakeCore, server: Httpd) -> Any:
        return [(await talk(server, post(path)))[0] for path in ("/", "/ech", "/echoes", "//")]

    assert serve(scenario) == [404, 404, 404, 404]


def test_roots_are_listed_and_a_taken_one_is_refused() -> None:
    async def scenario(core: FakeCore, server: Httpd) -> Any:
        with pytest.raises(ValueError, match="belongs to test"):
            server.mount("/echo/", lambda request: None, "other")  # type: ignore[arg-type,return-value]
        with pytest.raises(ValueError, match="empty"):
            server.mount("/", lambda request: None, "other")  # type: ignore[arg-type,return-value]
        return await core.mi_call("httpd_list_root_path")

    assert serve(scenario) == [{"http_root": "echo", "module": "test"}]


def test_a_body_over_the_limit_is_refused_with_and_without_its_length() -> None:
    """RFC 9110 §15.5.14: 413 Content Too Large."""

    async def scenario(core: FakeCore, server: Httpd) -> Any:
        plain = await talk(server, post("/echo", "x" * 2001))
        chunked = (
            b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"7d1\r\n" + b"x" * 2001 + b"\r\n0\r\n\r\n"
        )
        return [plain, await talk(server, chunked), await talk(server, post("/echo", "x" * 2000))]

    plain, chunked, fits = serve(scenario, receive_buf_size=2000)
    assert (plain[0], chunked[0], fits[0]) == (413, 413, 200)
    assert b"receive_buf_size" in plain[2]


def test_a_response_over_buf_size_is_an_error() -> None:
    async def scenario(core: FakeCore, server: Httpd) -> Any:
        return (await talk(server, post("/echo", "x" * 100)))[0]

    assert serve(scenario, buf_size=50) == 500


def test_basic_authentication() -> None:
    """RFC 7617 §2: no or wrong credentials get 401 with a challenge that names the realm."""

    async def scenario(core: FakeCore, server: Httpd) -> Any:
        def basic(text: str) -> str:
            return "Basic " + base64.b64encode(text.encode()).decode()

        given = ["", basic("admin:wrong"), basic("other:secret"), "Basic ###", "Bearer x", basic("admin:secret")]
        return [await talk(server, post("/echo", Authorization=value)) for value in given]

    *refused, accepted = serve(scenario, auth_username="admin", auth_password="secret", auth_realm='a "b"')
    assert [answer[0] for answer in refused] == [401] * 5
    assert refused[0][1]["www-authenticate"] == 'Basic realm="a \\"b\\"", charset="UTF-8"'
    assert accepted[0] == 200


def test_pages_of_other_sites_cannot_post() -> None:
    async def scenario(core: FakeCore, server: Httpd) -> Any:
        return [
            (await talk(server, post("/echo", Origin=origin)))[0]
            for origin in ("http://evil.example", "null", "http://localhost")
        ]

    assert serve(scenario) == [403, 403, 200]
    assert same_origin("", "x")


def test_a_failing_handler_is_500_and_the_server_lives(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(core: FakeCore, server: Httpd) -> Any:
        async def fail(request: HttpRequest) -> HttpResponse:
            raise RuntimeError("broken")

        server.mount("fail", fail, "test")
        return (await talk(server, post("/fail")))[0], (await talk(server, post("/echo")))[0]

    assert serve(scenario) == (500, 200)
    assert "test failed on POST /fail" in caplog.text


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"POST /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n"],
)
def test_garbage_is_refused_and_the_server_lives(garbage: bytes) -> None:
    async def scenario(core: FakeCore, server: Httpd) -> Any:
        return (await talk(server, garbage))[0], (await talk(server, post("/echo")))[0]

    assert serve(scenario) == (400, 200)


def test_a_client_that_never_ends_its_request_is_disconnected() -> None:
    async def scenario(core: FakeCore, server: Httpd) -> bytes:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"POST /echo HTTP/1.1\r\nHost:")
        await talk(server, post("/echo"))  # the slow client is known by now
        core.advance(31)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    assert serve(scenario) == b""


def test_what_cannot_be_started_is_told() -> None:
    async def nothing(core: FakeCore, server: Httpd) -> None:
        raise AssertionError("must not start")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def start() -> None:
            core = FakeCore()
            await core.add(Httpd(port=taken.getsockname()[1])).launch()

        with pytest.raises(StartError, match="cannot listen on"):
            asyncio.run(start())
    with pytest.raises(StartError, match="one is missing"):
        serve(nothing, auth_username="admin")
    with pytest.raises(StartError, match="one is missing"):
        serve(nothing, tls_cert_file="x.pem")
    with pytest.raises(StartError, match="TLS"):
        serve(nothing, tls_cert_file="missing.pem", tls_key_file="missing.key")


def test_a_missing_package_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    async def start() -> None:
        await FakeCore().add(Httpd(port=0)).launch()

    with pytest.raises(StartError, match=r"opensipspy\[http\]"):
        asyncio.run(start())


def test_cipher_texts_of_gnutls_and_openssl() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    apply_ciphers(context, DEFAULT_CIPHERS)
    assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_2
    assert all("256" in cipher["name"] or "CHACHA20" in cipher["name"] for cipher in context.get_ciphers())
    apply_ciphers(context, "ECDHE+AESGCM")
    with pytest.raises(ValueError, match="COMP-DEFLATE"):
        apply_ciphers(context, "NORMAL:+COMP-DEFLATE")
    with pytest.raises(ValueError, match="no TLS version"):
        apply_ciphers(context, "NORMAL:-VERS-ALL")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_tls_with_the_default_ciphers(tmp_path: Path) -> None:
    """With certificate and key the server speaks HTTPS only, TLS 1.2 as the default priority text says."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=str(cert))

    async def scenario(core: FakeCore, server: Httpd) -> Any:
        host, port = server.address
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="localhost")
        version = writer.get_extra_info("ssl_object").version()
        writer.write(post("/echo", "hello").encode())
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        return version, data

    version, data = serve(scenario, tls_cert_file=str(cert), tls_key_file=str(key))
    assert version == "TLSv1.2"
    assert data.startswith(b"HTTP/1.1 200")
