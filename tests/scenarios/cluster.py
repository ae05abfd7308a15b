"""Nodes of a cluster as processes: this server, and OpenSIPS where the environment names it.

`OPENSIPS` is the C server's program and `OPENSIPS_MODULES` the folder of its modules (as for bench/): with clusterer,
proto_bin, tm and mi_fifo built, tests whose nodes are "c" run.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.server import ServerProcess

PATIENCE_S = 60.0

HEAD = """
log_level=3
socket=udp:127.0.0.1:{sip} {words}
socket=bin:127.0.0.1:{bin}
loadmodule "proto_udp.so"
loadmodule "proto_bin.so"
loadmodule "mi_fifo.so"
modparam("mi_fifo", "fifo_name", "{folder}/fifo")
modparam("mi_fifo", "reply_dir", "{folder}/")
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "clusterer.so"
modparam("clusterer", "db_mode", 0)
modparam("clusterer", "my_node_id", {node_id})
modparam("clusterer", "ping_interval", 1)
modparam("clusterer", "ping_timeout", 500)
modparam("clusterer", "node_timeout", 1)
modparam("clusterer", "seed_fallback_interval", 1)
modparam("clusterer", "my_node_info", "cluster_id=1,url=bin:127.0.0.1:{bin},sip_addr=127.0.0.1:{sip}{flags}")
"""
C_HEAD = """
stderror_enabled=yes
syslog_enabled=no
udp_workers=1
tcp_workers=1
"""
EVENTS = """
event_route[E_CLUSTERER_NODE_STATE_CHANGED] {{ xlog("node $param(node_id) is $param(new_state)\\n"); }}
event_route[E_CLUSTERER_REQ_RECEIVED] {{
	xlog("request '$param(msg)' of $param(src_id)\\n");
	cluster_send_rpl($param(cluster_id), $param(src_id), "answer of {node_id}", $param(tag));
}}
event_route[E_CLUSTERER_RPL_RECEIVED] {{ xlog("reply '$param(msg)' of $param(src_id)\\n"); }}
event_route[E_CLUSTERER_SHARING_TAG_CHANGED] {{ xlog("tag $param(name) is $param(state)\\n"); }}
"""


class CServer:
    """OpenSIPS in the foreground, as `ServerProcess` is this server."""

    def __init__(self, script: Path, folder: Path) -> None:
        self.log_path = folder / "c.log"
        command = [os.environ["OPENSIPS"], "-F", "-f", str(script), "-w", str(folder), "-m", "64", "-M", "8"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def log_text(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """End all its processes as a crash would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


class ClusterNode:
    """One node: its ports, its process, its management commands."""

    def __init__(self, kind: str, node_id: int, folder: Path, sip_port: int, bin_port: int) -> None:
        self.kind = kind
        self.node_id = node_id
        self.folder = folder
        self.sip_port = sip_port
        self.bin_port = bin_port
        self.script = ""
        self.server: ServerProcess | CServer | None = None

    def start(self) -> None:
        path = self.folder / "node.cfg"
        path.write_text(self.script, encoding="utf-8")
        if self.kind == "c":
            self.server = CServer(path, self.folder)
        else:
            self.server = ServerProcess(path, self.folder)
            self.server.start()
        self.until(lambda: self.mi("clusterer:list") is not None, "it answers")

    def log(self) -> str:
        assert self.server is not None
        return self.server.log_text()

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, f"node {self.node_id} ({self.kind}): not: {what}\n{self.log()[-4000:]}"
            time.sleep(0.05)

    def says(self, text: str) -> None:
        """Wait until the log has a text."""
        self.until(lambda: text in self.log(), text)

    def mi(self, command: str, *params: str | int) -> Any:
        """The result of a management command over the pipe; None while nobody is there."""
        reply = self.folder / f"reply{time.monotonic_ns()}"
        question = {"jsonrpc": "2.0", "id": 1, "method": command, "params": list(params)}
        os.mkfifo(reply)
        try:
            with contextlib.suppress(OSError):
                pipe = os.open(self.folder / "fifo", os.O_WRONLY | os.O_NONBLOCK)
                there = os.open(reply, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    os.write(pipe, f":{reply.name}:{json.dumps(question)}\n".encode())
                    return json.loads(_read(there))["result"]
                finally:
                    os.close(there)
                    os.close(pipe)
            return None
        finally:
            reply.unlink()

    def links(self) -> dict[int, tuple[str, str]]:
        """Node -> (state of the link, next hop)."""
        (shown,) = (self.mi("clusterer:list") or {"Clusters": [{"Nodes": []}]})["Clusters"]
        return {n["node_id"]: (n["link_state"], n["next_hop"]) for n in shown["Nodes"]}

    def linked(self, *others: int) -> None:
        """Wait until there are links to all others."""
        self.until(lambda: all(self.links().get(n) == ("Up", str(n)) for n in others), f"links to {others}")


def _read(there: int) -> bytes:
    data = b""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        select.select([there], [], [], 0.1)
        try:
            part = os.read(there, 65536)
        except BlockingIOError:
            continue
        if not part and data:
            return data
        if not part:
            # Nobody has opened it yet.
            time.sleep(0.01)
        data += part
    raise OSError("no answer")


class Cluster:
    """Makes nodes and ends them."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        self._folder = folder
        self._free_port = free_port
        self.nodes: dict[int, ClusterNode] = {}

    def make(self, kinds: Sequence[str]) -> list[ClusterNode]:
        """Nodes from 1 on, of this server ("py") or of the C server ("c"), not started."""
        if "c" in kinds and not os.environ.get("OPENSIPS"):
            pytest.skip("OPENSIPS names no C server")
        made = []
        for node_id, kind in enumerate(kinds, 1):
            folder = self._folder / f"node{node_id}"
            folder.mkdir()
            node = ClusterNode(kind, node_id, folder, self._free_port(), self._free_port())
            self.nodes[node_id] = node
            made.append(node)
        return made

    def start(
        self,
        node: ClusterNode,
        neighbours: dict[int, int],
        route: str = "route { exit; }",
        *,
        more: str = "",
        words: str = "",
    ) -> None:
        """neighbours: node -> port. more: lines behind the modules. words: of the UDP socket."""
        values = {
            "sip": node.sip_port,
            "bin": node.bin_port,
            "folder": node.folder,
            "node_id": node.node_id,
            "words": words,
            # The first node needs nobody to have its data from.
            "flags": ",flags=seed" if node.node_id == 1 else "",
        }
        text = HEAD.format(**values)
        for other, port in neighbours.items():
            info = f"cluster_id=1,node_id={other},url=bin:127.0.0.1:{port}"
            text += f'modparam("clusterer", "neighbor_node_info", "{info}")\n'
        if node.kind == "c":
            text = C_HEAD + f'mpath="{os.environ.get("OPENSIPS_MODULES", "")}/"\n' + text
        node.script = text + more + route + "\n" + EVENTS.format(**values)
        node.start()

    def end(self) -> None:
        for node in self.nodes.values():
            if node.server is not None:
                node.server.stop()
