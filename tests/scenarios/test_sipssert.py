"""Every scenario of the SIPssert suite in the folder that `SIPSSERT` names, as a checkout of OpenSIPS's public one.

    SIPSSERT=~/sipssert-opensips-tests python -m pytest tests/scenarios/test_sipssert.py

The suite is not part of this project; how it is played, by this server or by the C server, is told in sipssert.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="the Python package PyYAML is missing")
from tests.scenarios import sipssert

pytestmark = pytest.mark.scenario

SUITE = os.environ.get("SIPSSERT", "")
SCENARIOS = [
    pytest.param(scenario, id=scenario.title) for scenario in (sipssert.find(Path(SUITE).resolve()) if SUITE else [])
] or [pytest.param(None, id="none", marks=pytest.mark.skip(reason="SIPSSERT names no folder of SIPssert scenarios"))]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: sipssert.Scenario, tmp_path: Path) -> None:
    """Every task of the scenario ends well, and the server stops when told to."""
    reason = scenario.missing()
    if reason:
        pytest.skip(reason)
    if sipssert.namespace() is None:
        pytest.skip("network namespaces are not permitted here")
    failure = sipssert.play(scenario.folder, tmp_path)
    assert not failure, failure


def test_expressions_of_scenarios() -> None:
    names = {"uac_port": 5040, "name": "alice"}
    assert sipssert.expand("{{ name }}:{{uac_port + 2}} {{ other }}|{{ a if b else c }}", names) == "alice:5042 |''"


OPENSIPS = """
log_level=3
stderror_enabled=yes
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
route { send_reply(200, "OK"); }
"""
CALL = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="options">
<send retrans="500"><![CDATA[
OPTIONS sip:[service]@[remote_ip] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:[caller]@[local_ip]>;tag=[call_number]
To: <sip:[service]@[remote_ip]>
Call-ID: [call_id]
CSeq: 1 OPTIONS
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="STATUS"/>
</scenario>
"""
SCENARIO = """
timeout: 10
tasks:
  - {name: OpenSIPS, type: opensips, ip: "{{ opensips_ip }}", socket: "udp:{{ opensips_ip }}:5060"}
  - name: Caller
    type: uac-sipp
    port: 5040
    proxy: "{{ opensips_ip }}:5060"
    service: bob
    caller: alice
    config_file: uac.xml
    require: {started: {task: OpenSIPS, wait: 0.1}}
"""


@pytest.mark.parametrize(("status", "passes"), [("200", True), ("486", False)])
def test_player(status: str, passes: bool, tmp_path: Path) -> None:
    """A scenario of one request: it passes when the expected reply comes and tells what failed when another does."""
    folder = tmp_path / "set" / "01.options"
    folder.mkdir(parents=True)
    (folder / "defines.yml").write_text("opensips_ip: 192.168.52.1\n")
    (folder / "opensips.cfg").write_text(OPENSIPS)
    (folder / "uac.xml").write_text(CALL.replace("STATUS", status))
    (folder / "scenario.yml").write_text(SCENARIO)
    (scenario,) = sipssert.find(tmp_path)
    assert scenario.title == "set/01.options"
    reason = scenario.missing()
    if reason or sipssert.namespace() is None:
        pytest.skip(reason or "network namespaces are not permitted here")
    failure = sipssert.play(folder)
    assert (failure == "") == passes, failure
    if not passes:
        assert "Caller ended with 1" in failure
    (folder / "opensips.cfg").write_text('loadmodule "no_such.so"\n' + OPENSIPS)
    if "OPENSIPS" not in os.environ:
        assert scenario.missing() == "needs modules that opensipspy does not have: no_such"
