"""Real servers for tests: private data folders, free loopback ports, killed and started again at will."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.ports import free_port

# On a loaded machine a server may take long to begin.
PATIENCE_S = 120.0
INITDB = ("--no-sync", "-E", "UTF8", "--locale=C")


def program(*names: str, folders: tuple[str, ...] = ()) -> str | None:
    """The path of the first of the programs that is there."""
    for name in names:
        for folder in (*folders, "/usr/sbin", "/usr/local/sbin"):
            if os.access(Path(folder, name), os.X_OK):
                return str(Path(folder, name))
        found = shutil.which(name)
        if found:
            return found
    return None


class BackendServer:
    """A server program in a folder of its own. `account`: whom it runs as when the tests run as root."""

    account = ""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="opensipspy-"))
        self.folder.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        if os.getuid() == 0 and self.account:
            shutil.chown(self.folder, self.account)

    def run(self, command: list[str]) -> None:
        """A program that prepares something."""
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **self._as())

    def _as(self) -> dict[str, object]:
        if os.getuid() != 0 or not self.account:
            return {"cwd": self.folder}
        entry = pwd.getpwnam(self.account)
        return {"cwd": self.folder, "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the server answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0):
                return True
        except OSError:
            return False

    def start(self) -> None:
        """Returns when the server answers."""
        with open(self.folder / "output", "ab") as output:
            self._process = subprocess.Popen(self.command(), stdout=output, stderr=output, **self._as())
        end = time.monotonic() + PATIENCE_S
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(
                    f"{self.command()[0]}: {(self.folder / 'output').read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.02)

    def processes(self) -> list[int]:
        """The server and its children."""
        if self._process is None:
            return []
        found = [self._process.pid]
        for pid in found:
            try:
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
        return found

    def signal(self, number: int) -> None:
        """SIGSTOP returns when every process has stopped."""
        for pid in self.processes():
            try:
                os.kill(pid, number)
                while number == signal.SIGSTOP and Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "T":
                    time.sleep(0.001)
            except (ProcessLookupError, FileNotFoundError):
                continue

    def kill(self) -> None:
        """kill -9 of every process."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgresServer(BackendServer):
    """PostgreSQL that trusts everybody but "locked", who needs the password "secret"."""

    package = "postgresql"
    account = "postgres"

    @classmethod
    def programs(cls) -> str | None:
        """The folder of the programs."""
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
        for folder in [*folders, *(Path(p) for p in os.environ.get("PATH", "").split(":"))]:
            if (folder / "initdb").exists() and (folder / "postgres").exists():
                return str(folder)
        return None

    def prepare(self, *more: str) -> None:
        """more: settings as name=value."""
        folder = self.programs()
        self._more = list(more)
        self.run([f"{folder}/initdb", "-D", f"{self.folder}/data", "-A", "trust", "-U", "postgres", *INITDB])
        access = self.folder / "data" / "pg_hba.conf"
        access.write_text("host all locked all scram-sha-256\n" + access.read_text())

    def command(self) -> list[str]:
        settings = ["listen_addresses=127.0.0.1", "full_page_writes=off", "shared_buffers=32MB", *self._more]
        # Without fsync: a killed process loses nothing that the kernel has.
        settings += ["fsync=off", "synchronous_commit=on"]
        command = [
            f"{self.programs()}/postgres",
            "-D",
            f"{self.folder}/data",
            "-p",
            str(self.port),
            "-k",
            str(self.folder),
        ]
        return command + [part for setting in settings for part in ("-c", setting)]

    def ready(self) -> bool:
        check = [f"{self.programs()}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(check, check=False).returncode == 0

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgres://{user}@127.0.0.1:{self.port}/{database}"


class MariadbServer(BackendServer):
    """MariaDB with a user root without password."""

    package = "mariadb-server"
    account = "mysql"

    @classmethod
    def programs(cls) -> str | None:
        return program("mariadbd", "mysqld") if program("mariadb-install-db") else None

    def prepare(self, *more: str) -> None:
        """more: options of the server."""
        self._more = list(more)
        self.run(
            [str(program("mariadb-install-db")), "--no-defaults", f"--datadir={self.folder}/data", "--skip-test-db"]
            + ["--auth-root-authentication-method=normal", "--skip-name-resolve"]
            + (["--user=mysql"] if os.getuid() == 0 else [])
        )

    def command(self) -> list[str]:
        return [
            str(self.programs()),
            "--no-defaults",
            f"--datadir={self.folder}/data",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--socket={self.folder}/s",
            f"--pid-file={self.folder}/pid",
            "--skip-name-resolve",
            # Written to the kernel at each commit: a killed process loses nothing that it has acknowledged.
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
            "--skip-log-bin",
            *self._more,
        ]

    def url(self, database: str, user: str = "root") -> str:
        return f"mysql://{user}@127.0.0.1:{self.port}/{database}"


class RedisServer(BackendServer):
    """Redis without a file; `prepare("--option", "value")` gives it further options."""

    package = "redis-server"

    def __init__(self) -> None:
        super().__init__()
        self._more: list[str] = []

    @classmethod
    def programs(cls) -> str | None:
        return program("redis-server", "valkey-server")

    def prepare(self, *more: str) -> None:
        self._more = list(more)

    def command(self) -> list[str]:
        command = [str(self.programs()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [*command, "--save", "", "--appendonly", "no", *self._more]

    def ready(self) -> bool:
        """Whether it takes commands: a port that is open may belong to a server that still loads."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as link:
                link.settimeout(1.0)
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def url(self, group: str = "", rest: str = "/") -> str:
        return f"redis{':' if group else ''}{group}://127.0.0.1:{self.port}{rest}"


class RedisSentinel(RedisServer):
    """A Sentinel that watches one master by the name "main"."""

    def watch(self, master: RedisServer) -> None:
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor main 127.0.0.1 {master.port} 1\nsentinel down-after-milliseconds main 500\n"
        )

    def command(self) -> list[str]:
        return [str(self.programs()), str(self.folder / "sentinel.conf"), "--sentinel"]


class RedisCluster:
    """Three servers of Redis that share the slots of a cluster."""

    package = "redis-server, redis-tools"

    @classmethod
    def programs(cls) -> str | None:
        return program("redis-cli") if RedisServer.programs() else None

    def __init__(self) -> None:
        # A node's bus listens 10,000 above its port.
        self.nodes = [RedisServer() for _ in range(3)]

    def start(self) -> None:
        for node in self.nodes:
            node.prepare("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
            node.start()
        addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
        command = [str(self.programs()), "--cluster", "create", *addresses]
        subprocess.run(
            [*command, "--cluster-yes", "--cluster-replicas", "0"], check=True, capture_output=True, timeout=PATIENCE_S
        )
        end = time.monotonic() + PATIENCE_S
        while any("cluster_state:ok" not in self.ask(node, "cluster", "info") for node in self.nodes):
            if time.monotonic() > end:
                raise RuntimeError("the cluster does not come together")
            time.sleep(0.05)

    def ask(self, node: RedisServer, *words: str) -> str:
        command = [str(self.programs()), "-p", str(node.port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def url(self, group: str = "") -> str:
        return self.nodes[0].url(group)


class MemcachedServer(BackendServer):
    """memcached with items of up to 16 MB."""

    package = "memcached"

    @classmethod
    def programs(cls) -> str | None:
        return program("memcached")

    def command(self) -> list[str]:
        command = [str(self.programs()), "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "128", "-I", "16m"]
        return command + (["-u", "nobody"] if os.getuid() == 0 else [])

    def url(self, group: str = "") -> str:
        return f"memcached{':' if group else ''}{group}://127.0.0.1:{self.port}/"


class SecantusServer(BackendServer):
    """SecantusDB, which speaks MongoDB's protocol: no MongoDB server can be had from Debian or PyPI."""

    package = "SecantusDB (PyPI)"

    @classmethod
    def programs(cls) -> str | None:
        return program("secantusd-py", folders=(str(Path(sys.executable).parent),))

    def command(self) -> list[str]:
        return [
            *(str(self.programs()), "--host", "127.0.0.1", "--port", str(self.port)),
            *("--storage-path", str(self.folder / "data")),
        ]

    def url(self, group: str = "", collection: str = "keys") -> str:
        return f"mongodb{':' if group else ''}{group}://127.0.0.1:{self.port}/test.{collection}?directConnection=true"


H350_SCHEMA = """
attributetype ( 0.0.8.350.1.1.1.1.1 NAME 'commUniqueId' EQUALITY caseIgnoreIA5Match
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 0.0.8.350.1.1.6.1.1 NAME 'SIPIdentitySIPURI' EQUALITY caseExactMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 0.0.8.350.1.1.6.1.4 NAME 'SIPIdentityUserName' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 0.0.8.350.1.1.6.1.5 NAME 'SIPIdentityPassword' EQUALITY octetStringMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
attributetype ( 0.0.8.350.1.1.6.1.6 NAME 'SIPIdentityServiceLevel' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 0.0.8.350.1.1.9.1.1 NAME 'callPreferenceURI' EQUALITY caseExactMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 0.0.8.350.1.1.1.2.1 NAME 'commObject' SUP top STRUCTURAL MUST commUniqueId )
objectclass ( 0.0.8.350.1.1.6.2.1 NAME 'SIPIdentity' SUP top AUXILIARY
  MAY ( SIPIdentitySIPURI $ SIPIdentityUserName $ SIPIdentityPassword $ SIPIdentityServiceLevel ) )
objectclass ( 0.0.8.350.1.1.9.2.1 NAME 'callPreferenceURIObject' SUP top AUXILIARY MAY callPreferenceURI )
"""


class SlapdServer(BackendServer):
    """OpenLDAP with the suffix dc=example,dc=com and the administrator cn=admin below it (password "secret")."""

    package = "slapd"

    @classmethod
    def programs(cls) -> str | None:
        return program("slapd") if Path("/etc/ldap/schema/core.schema").exists() else None

    def prepare(self, ldif: str, *more: str) -> None:
        """ldif: the entries. more: lines of the configuration's global part."""
        (self.folder / "db").mkdir()
        (self.folder / "h350.schema").write_text(H350_SCHEMA)
        (self.folder / "base.ldif").write_text(ldif)
        schemas = [f"/etc/ldap/schema/{name}.schema" for name in ("core", "cosine", "inetorgperson")]
        lines = [f"include {path}" for path in [*schemas, f"{self.folder}/h350.schema"]]
        lines += [f"pidfile {self.folder}/pid", f"argsfile {self.folder}/args", *more]
        lines += ["modulepath /usr/lib/ldap", "moduleload back_mdb", "database mdb", "maxsize 67108864"]
        lines += ['suffix "dc=example,dc=com"', 'rootdn "cn=admin,dc=example,dc=com"', "rootpw secret"]
        lines += [f"directory {self.folder}/db", "dbnosync", "index objectClass eq", "index SIPIdentityUserName eq"]
        (self.folder / "slapd.conf").write_text("\n".join(lines) + "\n")
        slapadd = program("slapadd") or "slapadd"
        self.run([slapadd, "-q", "-f", f"{self.folder}/slapd.conf", "-l", f"{self.folder}/base.ldif"])

    def command(self) -> list[str]:
        return [
            str(self.programs()),
            "-f",
            f"{self.folder}/slapd.conf",
            "-h",
            f"ldap://127.0.0.1:{self.port}",
            "-d",
            "0",
        ]

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"


# Sip-Method has another name here, as FreeRADIUS knows one of a vendor; 206 and 207 are those of Digest-*, too, whose
# module goes by the number.
SIP_DICTIONARY = """
ATTRIBUTE Method-Of-Sip 204 integer
ATTRIBUTE Sip-Response-Code 205 integer
ATTRIBUTE Sip-From-Tag 206 string
ATTRIBUTE Sip-To-Tag 207 string
ATTRIBUTE Sip-Uri-User 208 string
ATTRIBUTE Sip-Uri-Host 209 string
ATTRIBUTE Sip-Group 211 string
ATTRIBUTE SIP-AVP 225 string
ATTRIBUTE Sip-Call-Duration 227 integer
ATTRIBUTE Sip-Call-Setuptime 228 integer
ATTRIBUTE Sip-Call-Created 229 integer
ATTRIBUTE Sip-Call-MSDuration 230 integer
ATTRIBUTE SIP-Call-Id 232 string
ATTRIBUTE SIP-Request-Hash 233 string
VALUE Acct-Status-Type Failed 15
VALUE Service-Type Group-Check 12
VALUE Service-Type Sip-Verify-Destination 21
VALUE Service-Type Sip-Verify-Source 22
"""
RADIUSD_CONF = """
prefix = /usr
logdir = {D}/log
raddbdir = {D}
confdir = {D}
run_dir = {D}/run
libdir = /usr/lib/freeradius
pidfile = {D}/run/radiusd.pid
# It drops what is more than this, for as long as it keeps answered requests for their repetitions.
max_requests = 16384
security {{
 reject_delay = 0
}}
client loop {{
 ipaddr = 127.0.0.1
 secret = testing123
}}
modules {{
 digest {{
 }}
 pap {{
 }}
 files {{
  filename = {D}/users
  key = "%{{User-Name}}"
 }}
 detail {{
  filename = {D}/log/detail
 }}
 always ok {{
  rcode = ok
 }}
}}
server t {{
 listen {{
  type = auth
  ipaddr = 127.0.0.1
  port = {P}
 }}
 listen {{
  type = acct
  ipaddr = 127.0.0.1
  port = {A}
 }}
 authorize {{
  digest
  files
  pap
 }}
 authenticate {{
  Auth-Type PAP {{
   pap
  }}
  digest
 }}
 accounting {{
  detail
  ok
 }}
}}
"""


class FreeradiusServer(BackendServer):
    """FreeRADIUS with the secret "testing123" for authentication (`port`) and accounting (`acct_port`)."""

    package = "freeradius"

    @classmethod
    def programs(cls) -> str | None:
        return program("freeradius") if Path("/usr/share/freeradius/dictionary").exists() else None

    def prepare(self, users: str) -> None:
        """users: the file of users, replies included. Writes radiusclient.conf and its files, too."""
        self.acct_port = free_port()
        for name in ("log", "run", "certs"):
            (self.folder / name).mkdir()
        text = RADIUSD_CONF.format(D=self.folder, P=self.port, A=self.acct_port)
        (self.folder / "radiusd.conf").write_text(text)
        (self.folder / "users").write_text(users)
        (self.folder / "dictionary").write_text("$INCLUDE /usr/share/freeradius/dictionary\n" + SIP_DICTIONARY)
        (self.folder / "servers").write_text("127.0.0.1 testing123\n")
        (self.folder / "radiusclient.conf").write_text(
            f"authserver 127.0.0.1:{self.port}\nacctserver 127.0.0.1:{self.acct_port}\n"
            f"servers servers\nradius_timeout 5\nradius_retries 3\nseqfile /var/run/radius.seq\n"
        )

    @property
    def url(self) -> str:
        return f"radius:{self.folder}/radiusclient.conf"

    def command(self) -> list[str]:
        folder = str(self.folder)
        return [str(self.programs()), "-f", "-d", folder, "-D", folder, "-l", f"{folder}/log/stdout"]

    def ready(self) -> bool:
        log = self.folder / "log" / "stdout"
        return log.exists() and "Ready to process requests" in log.read_text(errors="replace")

    def records(self) -> list[dict[str, str]]:
        """The accounting records taken so far."""
        detail = self.folder / "log" / "detail"
        blocks = detail.read_text(errors="replace").split("\n\n") if detail.exists() else []
        return [
            {name.strip(): value.strip().strip('"') for name, _, value in (line.partition("=") for line in lines[1:])}
            for lines in (block.strip().splitlines() for block in blocks)
            if lines
        ]
