"""Databases whose connections use a client domain of tls_mgm (`?tls_domain=NAME`), against real servers with TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import DatabaseError, DbDriver, parse_url
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.module.testing import FakeCore
from opensipspy.modules.tls_mgm import TlsMgm
from tests.backends import MariadbServer, PostgresServer
from tests.certificates import Authority
from tests.dbdrivers.conftest import with_files

CIPHERS = {
    "mysql": "SHOW STATUS LIKE 'Ssl_cipher'",
    "postgres": "SELECT 1, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mysql_url(mariadb_server: MariadbServer, authority: Authority) -> Iterator[str]:
    server = MariadbServer()
    try:
        identity = authority.issue("localhost")
        chain, key = with_files(server, Path(identity.cert), Path(identity.key))
        server.prepare(f"--ssl-cert={chain}", f"--ssl-key={key}")
        server.start()
        yield server.url("mysql")
    finally:
        server.stop()


@pytest.fixture(scope="module")
def postgres_url(postgres_server: PostgresServer, authority: Authority) -> Iterator[str]:
    server = PostgresServer()
    try:
        identity = authority.issue("localhost")
        chain, key = with_files(server, Path(identity.cert), Path(identity.key))
        server.prepare("ssl=on", f"ssl_cert_file={chain}", f"ssl_key_file={key}")
        server.start()
        yield server.url("postgres")
    finally:
        server.stop()


@pytest.fixture(params=["mysql", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def cipher(url: str, authority: Path | None) -> Any:
    """Which cipher a connection by the client domain "db" uses. authority: None is without the module tls_mgm."""

    async def run() -> Any:
        core = FakeCore()
        if authority is not None:
            manager = TlsMgm(tls_library="none")
            manager.set_param("client_domain", "db")
            manager.set_param("ca_list", f"[db]{authority}")
            core.add(manager)
            await manager.start()
        driver = core.add(DbMysql(use_tls=1, max_db_retries=1) if url.startswith("mysql") else DbPostgres(use_tls=1))
        assert isinstance(driver, DbDriver)
        database = driver.open_database(parse_url(url))
        try:
            [row] = await database.raw(CIPHERS[database.url.scheme])
            return row[1]
        finally:
            await database.close()

    return asyncio.run(run())


def test_a_client_domain_secures_the_connection(url: str, authority: Authority) -> None:
    assert cipher(f"{url}?tls_domain=db", Path(authority.path))


def test_a_server_of_another_authority_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as caught:
        cipher(f"{url}?tls_domain=db", Path(Authority(tmp_path, "Somebody Else").path))
    assert "certificate" in str(caught.value).lower()


@pytest.mark.parametrize("loaded", [True, False], ids=["another domain", "no tls_mgm"])
def test_a_domain_that_is_not_there_is_named(url: str, authority: Authority, loaded: bool) -> None:
    with pytest.raises(DatabaseError, match="no client domain nobody of the module tls_mgm"):
        cipher(f"{url}?tls_domain=nobody", Path(authority.path) if loaded else None)
