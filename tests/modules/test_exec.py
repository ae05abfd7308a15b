"""exec: real programs, their output, their limits and their end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules import exec as exec_module
from opensipspy.modules.exec import Exec
from opensipspy.script.declare import VarRef
from opensipspy.script.run import Run, Value
from tests.scenarios.peer import until


def avp(name: str) -> VarRef:
    def put(run: Run, value: Value) -> None:
        run.avps.setdefault(name, []).append(value)

    return VarRef(f"$avp({name})", "$avp", name, lambda run: run.avps[name][-1], put, put)


class Lab:
    def __init__(self, **params: int) -> None:
        self.core = FakeCore()
        self.module = self.core.add(Exec(**params))
        text = request(ruri="sip:bob@example.org", headers="X-A: 1\r\nX-A: 2\r\nm: <sip:c@h>\r\nX-B: () { :; }\r\n")
        self.run = make_run(text, core=self.core)

    def call(self, *args: object) -> int:
        async def work() -> int:
            result = self.core.call("exec", self.run, *args)
            code = int(result if isinstance(result, int) else await result)
            await self.core.settle()
            return code

        return asyncio.run(work())


def test_output_and_errors_are_taken_and_input_is_given() -> None:
    lab = Lab()
    out, err = avp("out"), make_var("err")
    assert lab.call("cat; echo wrong >&2", "one\ntwo\n", out, err) == 1
    assert lab.run.avps["out"] == ["one", "two"]
    assert err.get(lab.run) == "wrong"


def test_the_program_gets_the_avp_top_first_and_the_message() -> None:
    lab = Lab(setvars=1)
    lab.run.avps["env"] = ["b", "a"]
    lab.run.ruri = "sip:carol@example.net"
    command = (
        'echo "$OSIPS_EXEC_0 $OSIPS_EXEC_1 $SIP_HF_X_A $SIP_HF_CONTACT $SIP_USER $SIP_OUSER $SIP_SRCIP $SIP_TID"'
        '; echo "$SIP_HF_X_B"'
    )
    assert lab.call(command, None, avp("out"), None, avp("env")) == 1
    assert lab.run.avps["out"] == ["a b 1,2 <sip:c@h> carol bob 192.0.2.10 z9hG4bK-1", " () { :; }"]


def test_without_output_the_script_goes_on_at_once(tmp_path: Path) -> None:
    lab = Lab()
    assert lab.call(f"cat > {tmp_path}/f", "text") == 1
    assert (tmp_path / "f").read_text() == "text"


def test_a_program_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    lab = Lab(time_to_kill=1)
    assert lab.call(f"sleep 600 & echo $! > {tmp_path}/pid; wait", None, make_var("out")) == -1
    pid = int((tmp_path / "pid").read_text())
    until(lambda: ended(pid), what="the end of what it started")


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its new parent has not seen yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_program_that_prints_without_end_is_ended() -> None:
    lab = Lab()
    assert lab.call("yes", None, make_var("out")) == -1


def test_what_cannot_run_is_false_and_a_reader_may_leave_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()
    assert lab.call("") == -1
    assert lab.call("echo \0", None, make_var("out")) == -1
    assert lab.call("true", "x" * 1_000_000, make_var("out")) == 1
    monkeypatch.setattr(exec_module, "MAX_RUNNING", 0)
    assert lab.call("true") == -1


def test_stop_ends_what_still_runs(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    os.mkfifo(pid_file)

    async def work() -> None:
        lab = Lab()
        assert lab.core.call("exec", lab.run, f"trap '' TERM; echo $$ > {pid_file}; sleep 600; sleep 600") == 1
        pid = int(await asyncio.to_thread(pid_file.read_text))
        await lab.module.stop()
        await lab.core.settle()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(work())


def test_stop_ends_what_is_just_being_started() -> None:
    async def work() -> None:
        lab = Lab()
        assert lab.core.call("exec", lab.run, "sleep 600") == 1
        await lab.module.stop()
        await lab.core.settle()

    asyncio.run(asyncio.wait_for(work(), 60))
