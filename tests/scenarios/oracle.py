"""This server and, where the environment names it, the C server, with one script, one set of tables, the same packets.

`OPENSIPS` is the C server's program and `OPENSIPS_MODULES` the folder of its modules (as for bench/). Scripts say what
they found in the reply: the header X-Out. A table of expectations holds for this server always; for the C server the
same is expected, unless the row says what that does instead.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opensipspy.cli import main
from tests.backends import free_port
from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

HEAD = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
"""
C_HEAD = """
udp_workers=1
mpath="{modules}/"
"""
PATIENCE_S = 10.0
ANYTHING = object()
"""What the C server answers is not looked at."""


def digest_hash(algorithm: str, text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    kind = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[algorithm.upper().removesuffix("-SESS")]
    return hashlib.new(kind, data).hexdigest()


def challenge_of(reply: Received, header: str = "WWW-Authenticate") -> dict[str, str]:
    """The parameters of a reply's first challenge."""
    value = reply[header]
    return {
        name.lower(): quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', value)
    }


class Site:
    """One of the two servers. own: this one. A script's @DB@ is its database, @SITE@ "own" or "c"."""

    def __init__(self, own: bool, folder: Path, modules: Sequence[str], script: str, database: Callable[[Path], None]):
        self.own = own
        folder.mkdir()
        self.port = free_port()
        database(folder / "tables.db")
        url = f"sqlite://{folder}/tables.db"
        text = HEAD.format(port=self.port)
        if not own:
            text += C_HEAD.format(modules=os.environ["OPENSIPS_MODULES"])
        text += "".join(f'loadmodule "{name}.so"\n' for name in ("proto_udp", "sl", "signaling", "sipmsgops", *modules))
        path = folder / "script.cfg"
        path.write_text(text + script.replace("@DB@", url).replace("@SITE@", "own" if own else "c"), encoding="utf-8")
        self.phone = Phone("alice", ("127.0.0.1", self.port))
        self._log = folder / "c.log"
        self._own: ServerProcess | None = None
        self._c: subprocess.Popen[bytes] | None = None
        if own:
            self._own = ServerProcess(path, folder)
            self._own.start()
        else:
            command = [os.environ["OPENSIPS"], "-F", "-f", str(path), "-w", str(folder), "-m", "64", "-M", "16"]
            with self._log.open("ab") as log:
                self._c = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder
                )
            self._wait()

    def _wait(self) -> None:
        """Until the C server answers."""
        assert self._c is not None
        end = time.monotonic() + PATIENCE_S
        while True:
            assert self._c.poll() is None, self.log_text()[-1500:]
            assert time.monotonic() < end, self.log_text()[-1500:]
            try:
                self.ask("OPTIONS", "ready", limit_s=0.3)
            except (AssertionError, OSError):
                continue
            return

    def log_text(self) -> str:
        if self._own is not None:
            return self._own.log_text()
        return self._log.read_text("utf-8", "replace")

    def ask(
        self,
        method: str,
        case: str,
        headers: Sequence[str] = (),
        body: str = "",
        limit_s: float = PATIENCE_S,
        **more: Any,
    ) -> Received:
        """Send a request for sip:CASE@... and return the reply."""
        uri = f"sip:{case}@127.0.0.1:{self.port}"
        call_id = more.pop("call_id", "") or f"oracle-{time.monotonic_ns()}"
        self.phone.send(self.phone.request(method, uri, headers=tuple(headers), body=body, call_id=call_id, **more))
        while True:
            reply = self.phone.receive(limit_s)
            if reply["Call-ID"] == call_id and reply.status >= 200:
                return reply

    def stop(self) -> None:
        self.phone.close()
        if self._own is not None:
            self._own.stop()
        if self._c is not None:
            if self._c.poll() is None:
                os.killpg(self._c.pid, signal.SIGKILL)
            self._c.wait()


class Twins:
    """Both servers, or this one alone."""

    def __init__(
        self,
        folder: Path,
        modules: Sequence[str],
        script: str,
        tables: Sequence[str] = (),
        sql: str = "",
        with_c: bool = True,
    ) -> None:
        def database(path: Path) -> None:
            if tables:
                # The C server has one version of each table, the one that is made here.
                assert main.main(["db", "create", "--url", f"sqlite://{path}", "--modules", *tables]) == 0
            connection = sqlite3.connect(path)
            connection.executescript(sql)
            connection.commit()
            connection.close()

        self.sites: list[Site] = []
        try:
            self.sites.append(Site(True, folder / "own", modules, script, database))
            if with_c and os.environ.get("OPENSIPS") and os.environ.get("OPENSIPS_MODULES"):
                self.sites.append(Site(False, folder / "c", modules, script, database))
        except BaseException:
            self.stop()
            raise

    def each(self, play: Callable[[Site], object], expected: object, c: object | None = None) -> list[str]:
        """What is not as expected, as lines. c: what the C server does, when that is something else, or ANYTHING."""
        wrong = []
        for site in self.sites:
            if not site.own and c is ANYTHING:
                continue
            wanted = expected if site.own or c is None else c
            found = play(site)
            if found != wanted:
                wrong.append(f"{'this server' if site.own else 'the C server'}: {found!r}, not {wanted!r}")
        return wrong

    def stop(self) -> None:
        for site in self.sites:
            site.stop()


def answer(
    challenge: Mapping[str, str],
    user: str = "alice",
    password: str | bytes = "wonder",
    method: str = "REGISTER",
    uri: str = "sip:x",
    qop: str = "auth",
    algorithm: str = "",
    nc: str = "00000001",
    body: str = "",
    realm: str = "",
    **over: str | None,
) -> str:
    """The header with which a phone answers a challenge. over: parameters as they are written, None for left out."""
    algorithm = algorithm or challenge.get("algorithm", "MD5")
    realm = realm or challenge["realm"]
    nonce, cnonce = challenge["nonce"], "abcd"
    secret = password.encode() if isinstance(password, str) else password
    plain = algorithm.partition("-")[2] if algorithm.upper().startswith("AKA") else algorithm
    first = digest_hash(plain, f"{user}:{realm}:".encode() + secret)
    if plain.lower().endswith("-sess"):
        first = digest_hash(plain, f"{first}:{nonce}:{cnonce}")
    asked = f"{method}:{uri}" + (f":{digest_hash(plain, body)}" if qop == "auth-int" else "")
    middle = f"{nonce}:{nc}:{cnonce}:{qop}" if qop else nonce
    response = digest_hash(plain, f"{first}:{middle}:{digest_hash(plain, asked)}")
    fields: dict[str, str | None] = {
        "username": f'"{user}"',
        "realm": f'"{realm}"',
        "nonce": f'"{nonce}"',
        "uri": f'"{uri}"',
        "response": f'"{response}"',
        "algorithm": algorithm,
    }
    if qop:
        fields |= {"qop": qop, "nc": nc, "cnonce": f'"{cnonce}"'}
    fields |= over
    return "Authorization: Digest " + ", ".join(
        f"{name}={value}" for name, value in fields.items() if value is not None
    )
