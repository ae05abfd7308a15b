"""script_helper: what happens around the main route, with real rr and a tm that notes what it is asked."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from opensipspy.module import Module, Param, StartError, script_function
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.rr import RecordRoute, Rr
from opensipspy.modules.script_helper import ScriptHelper
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run

ROUTE = "Route: <sip:127.0.0.1;lr>\r\n"
IN_DIALOG = "<sip:bob@example.org>;tag=b1"


class Tm(Module):
    name = "tm"

    known = Param(int, -1, "What t_check_trans() returns.")
    relayed = Param(int, 1, "What t_relay() returns.")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.relays: list[Run] = []

    @script_function()
    def t_check_trans(self, run: Run) -> int:
        return self.known

    @script_function()
    async def t_relay(self, run: Run) -> int:
        await asyncio.sleep(0)
        self.relays.append(run)
        return self.relayed


class Dialog(Module):
    name = "dialog"

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, object]] = []

    @script_function()
    def create_dialog(self, run: Run, flags: str | None = None) -> int:
        self.calls.append(("create", flags))
        return 1

    @script_function()
    def match_dialog(self, run: Run) -> int:
        self.calls.append(("match", None))
        return -1


class Lab:
    def __init__(
        self, *, routes: dict[str, Any] | None = None, tm: dict[str, int] | None = None, **params: Any
    ) -> None:
        self.core = FakeCore()
        self.core.program = SimpleNamespace(
            route=lambda kind, name: (routes or {}).get(name) if kind == REQUEST else None
        )
        self.tm = self.core.add(Tm(**(tm or {})))
        self.core.add(Rr())
        self.dialog = self.core.add(Dialog())
        self.helper = self.core.add(ScriptHelper(**params))

    def take(self, method: str = "INVITE", **message: Any) -> tuple[bool | None, Run]:
        run = make_run(request(method, **message), core=self.core)

        async def go() -> bool | None:
            if not self.core.before:
                await self.helper.launch()
            main = self.core.before[0](run)
            await self.core.settle()
            return main

        return asyncio.run(go()), run

    def outcome(self) -> tuple[int, list[int]]:
        return len(self.tm.relays), [reply.code for reply in self.core.replies]


def recorded(run: Run) -> bool:
    """Whether rr will write Record-Route into the copies of the request."""
    return any(isinstance(note.deferred, RecordRoute) for note in run.edits.notes or ())


def test_initial_requests_are_record_routed_before_the_main_route():
    lab = Lab()
    for method, kept in (("INVITE", True), ("SUBSCRIBE", True), ("REGISTER", False), ("MESSAGE", False)):
        main, run = lab.take(method)
        assert main is True
        assert recorded(run) is kept, method
    assert lab.outcome() == (0, [])


def test_a_copy_of_a_known_request_does_not_reach_the_main_route():
    lab = Lab(tm={"known": 0})
    assert lab.take()[0] is False
    assert lab.outcome() == (0, [])


def test_sequential_requests_are_routed_and_relayed_without_the_script():
    lab = Lab()
    main, run = lab.take("BYE", to=IN_DIALOG, headers=ROUTE)
    assert main is False
    assert lab.outcome() == (1, [])
    assert not recorded(run)
    _, run = lab.take("INVITE", to=IN_DIALOG, headers=ROUTE)
    assert recorded(run), "an INVITE within a dialog is record-routed again"
    assert lab.outcome() == (2, [])


def test_a_sequential_request_without_our_route_is_not_here():
    """RFC 3261 §16.4: it has no business at this proxy."""
    lab = Lab()
    assert lab.take("BYE", to=IN_DIALOG)[0] is False
    assert lab.outcome() == (0, [404])


@pytest.mark.parametrize(("known", "relays"), [(1, 1), (-1, 0)])
def test_ack_and_cancel_follow_their_transaction_only(known: int, relays: int):
    lab = Lab(tm={"known": known})
    lab.take("ACK", to=IN_DIALOG)
    assert lab.outcome() == (relays, [])
    lab.take("CANCEL")
    assert lab.outcome() == (2 * relays, [])


def test_a_relay_that_fails_is_answered():
    lab = Lab(tm={"relayed": -1})
    lab.take("BYE", to=IN_DIALOG, headers=ROUTE)
    assert lab.outcome() == (1, [500])


def test_the_sequential_route_runs_first_and_exit_means_it_has_done_the_work():
    seen: list[str] = []

    def going_on(run: Run) -> int:
        seen.append(run.msg.method)
        return 1

    async def ending(run: Run) -> int:
        run.exited = True
        return 0

    lab = Lab(routes={"on": SimpleNamespace(fn=going_on)}, sequential_route="on")
    lab.take("BYE", to=IN_DIALOG, headers=ROUTE)
    assert (seen, lab.outcome()) == (["BYE"], (1, []))
    assert lab.helper.routes_used() == [(REQUEST, "on")]
    lab = Lab(routes={"end": SimpleNamespace(fn=ending)}, sequential_route="end")
    lab.take("BYE", to=IN_DIALOG, headers=ROUTE)
    assert lab.outcome() == (0, [])


def test_a_sequential_route_that_does_not_exist_is_told_and_ignored(caplog: pytest.LogCaptureFixture):
    lab = Lab(sequential_route="gone")
    lab.take("BYE", to=IN_DIALOG, headers=ROUTE)
    assert lab.outcome() == (1, [])
    assert "no route gone" in caplog.text


def test_dialogs_are_made_for_initial_invites_only_when_wanted():
    lab = Lab(use_dialog=1, create_dialog_flags="bye-on-timeout")
    lab.take()
    lab.take("SUBSCRIBE")
    lab.take("BYE", to=IN_DIALOG)
    assert lab.dialog.calls == [("create", "bye-on-timeout"), ("match", None)]
    lab = Lab()
    lab.take()
    assert lab.dialog.calls == []


def test_flags_without_use_dialog_are_told(caplog: pytest.LogCaptureFixture):
    Lab(create_dialog_flags="bye-on-timeout").take()
    assert "mean nothing" in caplog.text


def test_use_dialog_without_the_module_is_refused():
    core = FakeCore()
    core.add(Tm())
    core.add(Rr())
    with pytest.raises(StartError, match=r"match_dialog\(\)"):
        asyncio.run(core.add(ScriptHelper(use_dialog=1)).launch())
    needed = [name for name in ScriptHelper.requires if getattr(name, "param", "")]
    assert [(str(name), getattr(name, "param", "")) for name in needed] == [("dialog", "use_dialog")]
