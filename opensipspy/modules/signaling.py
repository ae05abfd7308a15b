"""One function to answer with, whether the request has a transaction or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from opensipspy import sip
from opensipspy.module import Module, ReplyCode, Wants, script_function, variable
from opensipspy.modules.tm.api import TmApi
from opensipspy.script.kinds import ERROR, FAILURE, REQUEST
from opensipspy.script.run import Index, Run, Value

if TYPE_CHECKING:
    from opensipspy.module import Core


class StatelessReplies(Protocol):
    """What `sl` offers."""

    def reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int: ...

    def local_tag(self, run: Run) -> str: ...


class SignalingError(Exception):
    """The module has nothing to send with."""


class Signaling(Module):
    """Reply through the transaction when there is one, else without state."""

    wants = (Wants("tm"), Wants("sl"))

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._tm: TmApi | None = None
        self._sl: StatelessReplies | None = None
        self._looked = False

    def bind(self, core: Core) -> None:
        super().bind(core)
        self._looked = False

    def _look(self) -> None:
        tm = self.core.module("tm")
        self._tm = cast(TmApi, tm) if tm is not None else None
        sl = self.core.module("sl")
        self._sl = cast(StatelessReplies, sl) if sl is not None else None
        self._looked = True

    async def start(self) -> None:
        self._look()
        if self._tm is None and self._sl is None:
            raise SignalingError("signaling needs one of the modules tm and sl")

    def _stateful(self, run: Run) -> TmApi | None:
        """`tm`, when it is to answer: there is a transaction, or nothing else can."""
        if not self._looked:
            self._look()
        tm = self._tm
        if tm is not None and (self._sl is None or tm.transaction(run) is not None):
            return tm
        return None

    def reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        """Answer the request of `run`: 1 sent, negative not. headers: further complete lines."""
        tm = self._stateful(run)
        if tm is not None:
            return tm.reply(run, code, reason, headers, body)
        if self._sl is not None:
            return self._sl.reply(run, code, reason, headers, body)
        return -1

    @script_function(routes=REQUEST | FAILURE | ERROR)
    def send_reply(self, run: Run, code: ReplyCode, reason: str) -> int:
        """Send a reply within the transaction, if there is one, else without state."""
        return self.reply(run, code, reason or sip.reason_phrase(code))

    @variable("$sig_local_totag")
    def sig_local_totag(self, run: Run, name: object, index: Index) -> Value:
        """The To tag that a reply made here to this request gets; differs with and without a transaction."""
        tm = self._stateful(run)
        if tm is not None:
            return tm.local_tag(run) or None
        return self._sl.local_tag(run) if self._sl is not None else None
