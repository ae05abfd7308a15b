"""The part of Cassandra's native protocol (version 4) that cachedb_cassandra uses, in threads.

Cassandra itself cannot be had. This stub was written beside the driver from the protocol's document: it shows that
requests are well formed and answers understood, not that Cassandra agrees.
"""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import threading
import time
import uuid
from typing import Any

ERROR, STARTUP, READY, OPTIONS, SUPPORTED, QUERY, RESULT, PREPARE, EXECUTE, REGISTER = 0, 1, 2, 5, 6, 7, 8, 9, 10, 11
BIGINT, BLOB, COUNTER, INT, UUID, VARCHAR, INET = 2, 3, 5, 9, 12, 13, 16
SET_OF_VARCHAR = (34, VARCHAR)
SYNTAX_ERROR, UNAVAILABLE = 0x2000, 0x1000
Type = int | tuple[int, int]


def short_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def cell(value: bytes | None) -> bytes:
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def type_code(kind: Type) -> bytes:
    return struct.pack(">H", kind) if isinstance(kind, int) else struct.pack(">HH", *kind)


def columns_of(names: list[tuple[str, Type]]) -> bytes:
    """The columns' metadata behind the count: one table for all of them."""
    rest = b"".join(short_text(name) + type_code(kind) for name, kind in names)
    return short_text("test") + short_text("keys") + rest


def rows(names: list[tuple[str, Type]], values: list[list[bytes | None]], *, skip: bool = False) -> bytes:
    head = struct.pack(">iii", 2, 4 if skip else 1, len(names)) + (b"" if skip else columns_of(names))
    return head + struct.pack(">i", len(values)) + b"".join(cell(each) for row in values for each in row)


class CassandraStub:
    """The keyspace "test": a table "keys" and the counters "counts". binary: values are blobs.

    unavailable: so many of the next operations are answered by "too few servers".
    """

    def __init__(self, *, binary: bool = True) -> None:
        self.kind = BLOB if binary else VARCHAR
        self.keys: dict[bytes, tuple[bytes, float]] = {}
        self.counts: dict[bytes, int] = {}
        self.statements: dict[bytes, str] = {}
        self.levels: list[int] = []
        self.unavailable = 0
        self.host_id = uuid.uuid4()
        self._lock = threading.Lock()
        self._links: set[socket.socket] = set()
        stub = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                stub._links.add(self.request)
                try:
                    while head := self.rfile.read(9):
                        version, _, stream, opcode, length = struct.unpack(">BBhBi", head)
                        body = self.rfile.read(length)
                        if version != 4:
                            number, text = 0x000A, "Invalid or unsupported protocol version; use 4"
                            code, data = ERROR, struct.pack(">i", number) + short_text(text)
                        else:
                            code, data = stub.answer(opcode, body)
                        self.wfile.write(struct.pack(">BBhBi", 0x84, 0, stream, code, len(data)) + data)
                except (OSError, struct.error):
                    return  # the client went
                finally:
                    stub._links.discard(self.request)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._handler = Handler
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        if self._thread is not None:
            self._thread.join()
        self._server.server_close()
        for link in list(self._links):
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already

    def restart(self) -> None:
        """On the same port, after stop()."""
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), self._handler)
        self._server.daemon_threads = True
        self.start()

    def url(self, group: str = "test", tables: str = "keys.counts") -> str:
        return f"cassandra:{group}://127.0.0.1:{self.port}/test.{tables}"

    # --- the protocol

    def answer(self, opcode: int, body: bytes) -> tuple[int, bytes]:
        if opcode == OPTIONS:
            version = short_text("CQL_VERSION") + struct.pack(">H", 1) + short_text("3.4.5")
            return SUPPORTED, struct.pack(">H", 2) + version + short_text("COMPRESSION") + struct.pack(">H", 0)
        if opcode in (STARTUP, REGISTER):
            return READY, b""
        length = struct.unpack_from(">i", body)[0] if opcode in (QUERY, PREPARE) else 0
        text = body[4 : 4 + length].decode()
        if opcode == PREPARE:
            return self._prepare(text)
        if opcode == QUERY:
            return self._query(text)
        size = struct.unpack_from(">H", body)[0]
        statement = self.statements[body[2 : 2 + size]]
        level, flags = struct.unpack_from(">HB", body, 2 + size)
        values: list[bytes] = []
        at = 2 + size + 3
        if flags & 1:
            count = struct.unpack_from(">H", body, at)[0]
            at += 2
            for _ in range(count):
                length = struct.unpack_from(">i", body, at)[0]
                values.append(body[at + 4 : at + 4 + length])
                at += 4 + length
        self.levels.append(level)
        with self._lock:
            if self.unavailable:
                self.unavailable -= 1
                return ERROR, struct.pack(">i", UNAVAILABLE) + short_text("too few") + struct.pack(">Hii", level, 2, 1)
            return RESULT, self._execute(statement, values, skip=bool(flags & 2))

    def _prepare(self, text: str) -> tuple[int, bytes]:
        found = re.search(r'"test"\."(\w+)"', text)
        if found is None or found[1] not in ("keys", "counts"):
            return ERROR, struct.pack(">i", SYNTAX_ERROR) + short_text("unconfigured table")
        value: Type = COUNTER if found[1] == "counts" else self.kind
        binds: list[tuple[str, Type]] = [("opensipskey", VARCHAR)]
        result: list[tuple[str, Type]] = []
        if text.startswith("INSERT"):
            binds += [("opensipsval", value), ("[ttl]", INT)]
        elif text.startswith("UPDATE"):
            binds.insert(0, ("opensipsval", value))
        elif text.startswith("SELECT"):
            result = [("opensipsval", value)] + ([("opensipskey", VARCHAR)] if found[1] == "keys" else [])
        number = struct.pack(">Q", len(self.statements) + 1)
        self.statements[number] = text
        data = struct.pack(">i", 4) + struct.pack(">H", len(number)) + number
        data += struct.pack(">iii", 1, len(binds), 0) + columns_of(binds)
        data += struct.pack(">ii", 1, len(result)) + columns_of(result) if result else struct.pack(">ii", 4, 0)
        return RESULT, data

    def _query(self, text: str) -> tuple[int, bytes]:
        if text.startswith("TRUNCATE"):
            (self.counts if "counts" in text else self.keys).clear()
            return RESULT, struct.pack(">i", 1)
        if "system.local" in text:
            return RESULT, self._local()
        if "system.peers" in text:
            return RESULT, rows([("peer", INET)], [])
        if text.startswith("SELECT 7"):
            return RESULT, rows([("n", INT), ("t", VARCHAR), ("b", BLOB)], [[struct.pack(">i", 7), b"seven", None]])
        return ERROR, struct.pack(">i", SYNTAX_ERROR) + short_text("no viable alternative at input")

    def _local(self) -> bytes:
        names: list[tuple[str, Type]] = [(name, VARCHAR) for name in ("key", "cluster_name", "data_center", "rack")]
        names += [(name, VARCHAR) for name in ("partitioner", "release_version", "cql_version")]
        names += [("rpc_address", INET), ("host_id", UUID), ("schema_version", UUID), ("tokens", SET_OF_VARCHAR)]
        texts = [b"local", b"test", b"dc1", b"r1", b"org.apache.cassandra.dht.Murmur3Partitioner", b"3.11.0", b"3.4.5"]
        token = struct.pack(">i", 1) + cell(b"0")
        ends: list[bytes | None] = [socket.inet_aton("127.0.0.1"), self.host_id.bytes, self.host_id.bytes, token]
        return rows(names, [[*texts, *ends]])

    def _execute(self, text: str, values: list[bytes], *, skip: bool) -> bytes:
        counters = '"counts"' in text
        if text.startswith("INSERT"):
            key, value, ttl = values[0], values[1], struct.unpack(">i", values[2])[0]
            self.keys[key] = (value, time.monotonic() + ttl if ttl else float("inf"))
        elif text.startswith("DELETE"):
            self.keys.pop(values[0], None)
        elif text.startswith("UPDATE"):
            self.counts[values[1]] = self.counts.get(values[1], 0) + int(struct.unpack(">q", values[0])[0])
        elif counters:
            count = self.counts.get(values[0])
            found: list[list[bytes | None]] = [] if count is None else [[struct.pack(">q", count)]]
            return rows([("opensipsval", COUNTER)], found, skip=skip)
        else:
            kept = self.keys.get(values[0])
            living: Any = [] if kept is None or kept[1] <= time.monotonic() else [[kept[0], values[0]]]
            return rows([("opensipsval", self.kind), ("opensipskey", VARCHAR)], living, skip=skip)
        return struct.pack(">i", 1)
