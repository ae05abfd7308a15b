"""send_reply() with and without tm and sl."""

from __future__ import annotations

import asyncio

import pytest

from opensipspy import sip
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.signaling import Signaling, SignalingError
from opensipspy.modules.sl import Sl
from opensipspy.modules.tm import Tm
from opensipspy.script.run import Run


def bench(*, tm: bool, sl: bool) -> FakeCore:
    core = FakeCore()
    if tm:
        core.add(Tm())
    if sl:
        core.add(Sl())
    core.add(Signaling())
    return core


def incoming(core: FakeCore) -> Run:
    return make_run(request("MESSAGE"), core=core)


def statuses(core: FakeCore) -> list[int]:
    return [sip.parse_message(s.data, s.target.peer, s.target.socket).status for s in core.sent]


def test_without_a_transaction_the_reply_is_stateless() -> None:
    """signaling manual, overview."""
    core = bench(tm=True, sl=True)
    run = incoming(core)
    assert core.call("send_reply", run, 200, "OK") == 1
    assert run.transaction is None
    assert core.call("t_check_trans", incoming(core)) == -1
    assert statuses(core) == [200]


def test_with_a_transaction_the_reply_is_part_of_it() -> None:
    """signaling manual, overview: a retransmission then gets the reply again."""
    core = bench(tm=True, sl=True)
    run = incoming(core)
    core.call("t_newtran", run)
    assert core.call("send_reply", run, 200, "OK") == 1
    assert core.call("t_check_trans", incoming(core)) == 0
    assert statuses(core) == [200, 200]


def test_with_tm_alone_a_transaction_is_made() -> None:
    """signaling manual: one of the two modules is enough."""
    core = bench(tm=True, sl=False)
    run = incoming(core)
    assert core.call("send_reply", run, 404, "Not Found") == 1
    assert run.transaction is not None
    assert statuses(core) == [404]


def test_with_sl_alone_the_reply_is_stateless() -> None:
    """signaling manual: one of the two modules is enough."""
    core = bench(tm=False, sl=True)
    assert core.call("send_reply", incoming(core), 404, "Not Found") == 1
    assert statuses(core) == [404]


def test_with_neither_the_server_does_not_start() -> None:
    """There would be nothing to send with."""
    core = bench(tm=False, sl=False)
    module = core.module("signaling")
    assert module is not None
    with pytest.raises(SignalingError):
        asyncio.run(module.start())


@pytest.mark.parametrize("stateful", [False, True])
def test_the_local_to_tag_is_the_one_that_the_reply_gets(stateful: bool) -> None:
    """signaling manual, $sig_local_totag."""
    core = bench(tm=True, sl=True)
    run = incoming(core)
    if stateful:
        core.call("t_newtran", run)
    tag = core.read("$sig_local_totag", run)
    core.call("send_reply", run, 200, "OK")
    last = core.sent[-1]
    assert sip.parse_message(last.data, last.target.peer, last.target.socket).to_tag == tag != ""
