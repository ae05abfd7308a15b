"""A server whose script is built of parts, with phones around it: for tests that go through a module's functions,
parameters, variables, commands and statistics one by one."""

from __future__ import annotations

from pathlib import Path

from tests.ports import free_port
from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess
from tests.scenarios.test_transports_live import mi

HEAD = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
@sockets@
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "sipmsgops.so"
loadmodule "httpd.so"
modparam("httpd", "ip", "127.0.0.1")
modparam("httpd", "port", @http@)
loadmodule "mi_http.so"
"""


class Site:
    """A server with a UDP and a TCP socket of one port. text: modules, parameters and routes; `@port@`, `@folder@` and
    the words of `more` are filled in."""

    def __init__(self, folder: Path, text: str, *, sockets: str = "", head: str = HEAD, **more: object) -> None:
        self.folder = folder
        self.port, self.http = free_port(), free_port()
        self.address = ("127.0.0.1", self.port)
        plain = f"socket=udp:127.0.0.1:{self.port}\nsocket=tcp:127.0.0.1:{self.port}"
        words = {"port": self.port, "http": self.http, "folder": folder, "sockets": f"{plain}\n{sockets}", **more}
        script = head + text
        # Twice: what is filled in may hold such words too.
        for _ in range(2):
            for name, value in words.items():
                script = script.replace(f"@{name}@", str(value))
        (folder / "opensips.cfg").write_text(script)
        self.server = ServerProcess(folder / "opensips.cfg", folder)
        self.server.start()
        self.phones: list[Phone] = []

    def phone(self, name: str) -> Phone:
        made = Phone(name, self.address)
        self.phones.append(made)
        return made

    def hang_up(self) -> None:
        """Close the phones of a test."""
        for phone in self.phones:
            phone.close()
        self.phones.clear()

    def close(self) -> None:
        self.hang_up()
        self.server.stop()
        assert "Traceback" not in self.server.log_text(), self.server.log_text()

    def command(self, name: str, **params: object) -> object:
        return mi(self.http, name, **params)

    def statistics(self, group: str) -> dict[str, int]:
        """All of a module, by their names."""
        shown = self.command("get_statistics", statistics=[f"{group}:"])
        assert isinstance(shown, dict)
        return {name.partition(":")[2]: int(value) for name, value in shown.items()}

    def ask(self, phone: Phone, method: str, case: str, *headers: str, uri: str = "") -> Received:
        """The answer to a request whose X-Case tells the script what to do."""
        text = phone.request(method, uri or f"sip:x@127.0.0.1:{self.port}", headers=(f"X-Case: {case}", *headers))
        phone.send(text)
        final = phone.receive()
        while final.status == 100:
            final = phone.receive()
        if method == "INVITE":
            phone.send(phone.ack(final, text))
        return final


def way_to(phone: Phone) -> str:
    return f"sip:{phone.user}@127.0.0.1:{phone.port}"
