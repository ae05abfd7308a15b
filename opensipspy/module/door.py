"""What every door to the management commands shares: answering requests, printing, and tracing them."""

from __future__ import annotations

import grp
import pwd
from functools import partial

from opensipspy.management import Json, jsonrpc
from opensipspy.module.declarations import Param
from opensipspy.module.module import Module, StartError
from opensipspy.module.tracing import Ends, TraceSink


class TraceFilter:
    """`w: ps, which` traces only these, `b: ps` all but these; an empty text traces all."""

    def __init__(self, text: str = "") -> None:
        kind, colon, names = text.partition(":")
        self._listed = frozenset(name.strip() for name in names.split(",") if name.strip())
        self._white = kind.strip().lower() == "w"
        if text.strip() and (not colon or kind.strip().lower() not in ("w", "b") or not self._listed):
            raise ValueError("write it as `w: command, ...` or `b: command, ...`")

    def traces(self, names: set[str]) -> bool:
        """Whether a command that goes by any of these names is traced."""
        return bool(names & self._listed) == self._white


class MiDoor(Module):
    """A door: reads requests somewhere, gives them to `answer` and writes what comes back."""

    pretty_printing = Param(int, 0, "Whether answers are indented (1) or on one line (0).")
    trace_destination = Param(str, None, "Name of the trace destination that gets copies of the commands.")
    trace_bwlist = Param(str, None, "Commands to trace (`w: a, b`) or not to trace (`b: a, b`).", func=True)

    def __init__(self, **params: object) -> None:
        self._filter = TraceFilter()
        self._sink: TraceSink | None = None
        super().__init__(**params)

    def set_trace_bwlist(self, text: str) -> None:
        self._filter = TraceFilter(text)

    async def start(self) -> None:
        if self.trace_destination is None:
            return
        try:
            # The rule that an abstract class is no type argument is for constructors; this is a look-up by class.
            self._sink = self.core.api("proto_hep", TraceSink)  # type: ignore[type-abstract]
        except LookupError:
            self.core.log.warning("%s: trace_destination needs the proto_hep module, nothing is traced", self.name)

    async def answer(self, data: bytes, ends: Ends | None = None) -> bytes | None:
        """The response to a request, None for a notification; never raises for what the bytes hold.

        ends: where it came from and to, for whom it is traced; None when that was no network.
        """
        traced = partial(self._trace, ends=ends) if self._sink is not None else None
        return await jsonrpc.handle(data, self.core.mi, pretty=bool(self.pretty_printing), traced=traced)

    def _trace(self, method: str, params: Json, response: Json, ends: Ends | None = None) -> None:
        if self._sink is None or self.trace_destination is None:
            return
        command = self.core.mi.find(method)
        names = {method} if command is None else {method, command.name, command.command, *command.aliases}
        if self._filter.traces(names):
            self._sink.trace_mi(self.trace_destination, self.name, method, params, response, ends)


def user_id(name: int | str | None) -> int:
    """The number of a user given by name or number, -1 for none; raises StartError."""
    if name is None or isinstance(name, int):
        return -1 if name is None else name
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise StartError(f"there is no user {name!r}") from None


def group_id(name: int | str | None) -> int:
    """The number of a group given by name or number, -1 for none; raises StartError."""
    if name is None or isinstance(name, int):
        return -1 if name is None else name
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"there is no group {name!r}") from None


__all__ = ["MiDoor", "TraceFilter", "TraceSink", "group_id", "user_id"]
