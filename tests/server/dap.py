"""A client of the Debug Adapter Protocol, as small as tests need it."""

from __future__ import annotations

import json
import socket
from typing import Any


class DapClient:
    """Asks and waits for the answer; events are kept until somebody wants them."""

    def __init__(self, address: str, limit_s: float = 30.0) -> None:
        host, _, port = address.rpartition(":")
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.connect(address.removeprefix("unix:"))
        else:
            self.socket = socket.create_connection((host.strip("[]"), int(port)))
        self.socket.settimeout(limit_s)
        self.stream = self.socket.makefile("rb")
        self.events: list[dict[str, Any]] = []
        self.sequence = 0

    def __enter__(self) -> DapClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def message(self) -> dict[str, Any]:
        """The next message; raises EOFError when the adapter has closed."""
        length = 0
        while (line := self.stream.readline()) != b"\r\n":
            if not line:
                raise EOFError
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return dict(json.loads(self.stream.read(length)))

    def closed(self) -> bool:
        """Read to the end of the connection; True when the adapter has ended it."""
        try:
            while True:
                self.message()
        except (EOFError, ConnectionError):
            return True

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The whole answer."""
        self.sequence += 1
        data = json.dumps(
            {"seq": self.sequence, "type": "request", "command": command, "arguments": arguments}
        ).encode()
        self.socket.sendall(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        while True:
            message = self.message()
            if message["type"] == "response" and message["request_seq"] == self.sequence:
                return message
            self.events.append(message)

    def get(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The body of an answer that must be a good one."""
        answer = self.ask(command, **arguments)
        assert answer["success"], answer
        return dict(answer["body"])

    def event(self, name: str) -> dict[str, Any]:
        """The body of the next event of that name."""
        while True:
            for index, message in enumerate(self.events):
                if message["event"] == name:
                    return dict(self.events.pop(index)["body"])
            self.events.append(self.message())

    def begin(self, path: str, *breakpoints: dict[str, Any], errors: bool = False) -> list[dict[str, Any]]:
        """The hand-shake of an editor, with breakpoints in one file."""
        assert self.get("initialize", adapterID="test")["supportsConfigurationDoneRequest"]
        self.event("initialized")
        made = self.get("setBreakpoints", source={"path": path}, breakpoints=list(breakpoints))["breakpoints"]
        self.get("setExceptionBreakpoints", filters=["errors"] if errors else [])
        self.get("configurationDone")
        self.get("attach")
        return list(made)

    def stack(self, thread: int) -> list[tuple[str, int]]:
        """(route, line) of a held call, the innermost first."""
        frames = self.get("stackTrace", threadId=thread)["stackFrames"]
        return [(frame["name"], frame["line"]) for frame in frames]

    def read(self, thread: int, expression: str) -> str:
        """What an expression gives for a held call."""
        frame = self.get("stackTrace", threadId=thread)["stackFrames"][0]["id"]
        return str(self.get("evaluate", expression=expression, frameId=frame, context="watch")["result"])

    def scope(self, thread: int, name: str) -> dict[str, str]:
        """The variables of a scope."""
        frame = self.get("stackTrace", threadId=thread)["stackFrames"][0]["id"]
        scopes = {each["name"]: each for each in self.get("scopes", frameId=frame)["scopes"]}
        reference = scopes[name]["variablesReference"]
        return {e["name"]: e["value"] for e in self.get("variables", variablesReference=reference)["variables"]}
