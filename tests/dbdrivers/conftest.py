"""Servers of databases and key-value stores, each started once for all tests of this folder that need it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensipspy.dbdrivers import db_unixodbc
from tests.backends import (
    BackendServer,
    MariadbServer,
    MemcachedServer,
    PostgresServer,
    RedisCluster,
    RedisServer,
    SecantusServer,
)
from tests.dbdrivers.dynamodb_stub import DynamodbStub


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a script cannot set: thousands of rows take long on a loaded machine."""
    monkeypatch.setattr(db_unixodbc, "QUERY_S", 60)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    pytest.importorskip("asyncpg", reason="needs the package asyncpg")
    if PostgresServer.programs() is None:
        pytest.skip(f"needs the package {PostgresServer.package}")
    server = PostgresServer()
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariadbServer]:
    pytest.importorskip("asyncmy", reason="needs the package asyncmy")
    if MariadbServer.programs() is None:
        pytest.skip(f"needs the package {MariadbServer.package}")
    server = MariadbServer()
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the package openssl")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def with_files(server: BackendServer, *files: Path) -> list[str]:
    """Copies that the server's account may read; returns their paths."""
    copies = []
    for file in files:
        copy = server.folder / file.name
        shutil.copy(file, copy)
        copy.chmod(0o600)
        if os.getuid() == 0 and server.account:
            shutil.chown(copy, server.account)
        copies.append(str(copy))
    return copies


@pytest.fixture(scope="session")
def secure_postgres(postgres_server: PostgresServer, certificate: tuple[Path, Path]) -> Iterator[PostgresServer]:
    """PostgreSQL with TLS."""
    server = PostgresServer()
    try:
        chain, key = with_files(server, *certificate)
        server.prepare("ssl=on", f"ssl_cert_file={chain}", f"ssl_key_file={key}")
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def secure_mariadb(mariadb_server: MariadbServer, certificate: tuple[Path, Path]) -> Iterator[MariadbServer]:
    """MariaDB with TLS."""
    server = MariadbServer()
    try:
        chain, key = with_files(server, *certificate)
        server.prepare(f"--ssl-cert={chain}", f"--ssl-key={key}")
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    pytest.importorskip("redis", reason="needs the package redis")
    if RedisServer.programs() is None:
        pytest.skip(f"needs the package {RedisServer.package}")
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """Three nodes."""
    pytest.importorskip("redis", reason="needs the package redis")
    if RedisCluster.programs() is None:
        pytest.skip(f"needs the packages {RedisCluster.package}")
    cluster = RedisCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    pytest.importorskip("emcache", reason="needs the package emcache")
    if MemcachedServer.programs() is None:
        pytest.skip(f"needs the package {MemcachedServer.package}")
    server = MemcachedServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def mongodb_server() -> Iterator[SecantusServer]:
    if SecantusServer.programs() is None:
        pytest.skip(f"needs the package {SecantusServer.package}")
    server = SecantusServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def dynamodb_server() -> Iterator[DynamodbStub]:
    """A new one for each test: it cannot be emptied."""
    pytest.importorskip("aiobotocore", reason="needs the package aiobotocore")
    server = DynamodbStub()
    server.start()
    try:
        yield server
    finally:
        server.stop()
