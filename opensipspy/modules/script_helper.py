"""script_helper: the part of a routing script that every proxy has, run around the main route.

Initial requests are record-routed before the main route sees them. Requests within a dialog, and CANCEL, never reach
it: they are loose-routed and relayed (RFC 3261 §16.4 and §16.12).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from opensipspy.module import Module, Param, Requires, StartError
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import M_ACK, M_CANCEL, M_INVITE, M_MESSAGE, M_REGISTER

NOT_RECORDED: Final = M_REGISTER | M_MESSAGE
"""Methods that open no dialog whose path could be kept."""


class Sequential:
    """What stands in for a route when a request within a dialog is handled here."""

    __slots__ = ("fn",)
    kind: Final = REQUEST
    name: Final = "script_helper"
    is_async: Final = True

    def __init__(self, fn: Callable[[Run], Coroutine[Any, Any, int]]) -> None:
        self.fn = fn


class ScriptHelper(Module):
    """Record-route initial requests, and route requests within dialogs without the script.

    `use_dialog` adds dialogs; a `sequential_route` that ends with `exit` has routed the request itself. Max-Forwards is
    left alone.
    """

    name = "script_helper"
    requires = ("tm", "rr", "sl", Requires("dialog", param="use_dialog"))

    use_dialog = Param(int, 0, "Whether dialogs are made for initial INVITEs; needs the module dialog.")
    create_dialog_flags = Param(str, "", "Flags for these dialogs, as create_dialog() takes them.", func=True)
    sequential_route = Param(str, None, "A route that requests within dialogs run before they are relayed.")

    def __init__(self, **params: Any) -> None:
        self._dialog_flags = ""
        self._flags: tuple[object, ...] = ()
        super().__init__(**params)

    def set_create_dialog_flags(self, value: str) -> None:
        self._dialog_flags = value.strip()

    def routes_used(self) -> Sequence[tuple[int, str]]:
        return [(REQUEST, self.sequential_route)] if self.sequential_route else []

    async def start(self) -> None:
        for name in ("t_check_trans", "t_relay", "record_route", "loose_route"):
            self._function(name)
        if self.use_dialog:
            self._function("match_dialog")
            self._read_flags()
        elif self._dialog_flags:
            self.core.log.warning("script_helper: create_dialog_flags mean nothing without use_dialog")
        if self.sequential_route and self.core.program.route(REQUEST, self.sequential_route) is None:
            self.core.log.error("script_helper: there is no route %s, none is run", self.sequential_route)
        self.core.before_script(self._before)

    def _function(self, name: str) -> Callable[..., Any]:
        """A script function of a module that has to be there."""
        found = self.core.catalogue.functions.get(name)
        if found is None:
            raise StartError(f"script_helper needs the function {name}(): is its module loaded?")
        return found.call

    def _read_flags(self) -> None:
        self._function("create_dialog")
        if not self._dialog_flags:
            return
        param = self.core.catalogue.functions["create_dialog"].params[0]
        value: object = self._dialog_flags
        if param.fixup is not None:
            try:
                value = param.fixup(self._dialog_flags)
            except ValueError as error:
                raise StartError(f"script_helper: create_dialog_flags: {error}") from error
        self._flags = (value,)

    # --- requests

    def _before(self, run: Run) -> bool:
        """Whether the main route is to see the request."""
        msg = run.msg
        if msg.to_tag or msg.method_id == M_CANCEL:
            self.core.run_route(Sequential(self._route_sequential), run, _ended)
            return False
        if int(self._function("t_check_trans")(run)) == 0:
            # A copy of a request that is being handled: its last answer has been sent again.
            run.handled = True
            return False
        if not msg.method_id & NOT_RECORDED:
            self._function("record_route")(run)
        if self.use_dialog and msg.method_id == M_INVITE:
            made = self._function("create_dialog")(run, *self._flags)
            if inspect.isawaitable(made):
                raise TypeError("create_dialog() waits")
        return True

    async def _route_sequential(self, run: Run) -> int:
        msg = run.msg
        run.handled = True
        if msg.method_id == M_CANCEL:
            if await _done(self._function("t_check_trans")(run)) > 0:
                await _done(self._function("t_relay")(run))
            return 0
        if msg.method_id == M_INVITE:
            self._function("record_route")(run)
        if await _done(self._function("loose_route")(run)) < 0:
            return await self._unrouted(run)
        if await _done(self._function("t_check_trans")(run)) == 0:
            return 0
        if self.sequential_route and not await self._run_own_route(run):
            return 0
        if await _done(self._function("t_relay")(run)) < 0:
            self.core.send_reply(run, 500, "Server Internal Error")
        return 0

    async def _unrouted(self, run: Run) -> int:
        """A request within a dialog that has no Route to us."""
        if self.use_dialog:
            await _done(self._function("match_dialog")(run))
        if run.msg.method_id != M_ACK:
            self.core.send_reply(run, 404, "Not Here")
        elif await _done(self._function("t_check_trans")(run)) > 0:
            # The ACK of a final response other than 2xx belongs to a transaction here.
            await _done(self._function("t_relay")(run))
        return 0

    async def _run_own_route(self, run: Run) -> bool:
        """Run `sequential_route`; False when it has ended the handling of the request."""
        program: Any = run.program or self.core.program
        route = program.route(REQUEST, self.sequential_route)
        if route is None:
            return True
        await _done(route.fn(run))
        return not (run.exited or run.dropped)


async def _done(result: int | Awaitable[int]) -> int:
    return int(await result if inspect.isawaitable(result) else result)


def _ended(run: Run, result: int) -> None:
    """Nothing follows a request that was routed here."""
