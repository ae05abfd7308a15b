"""Fixtures that every test may use: free ports, the whole server as a process, SIPp as a peer."""

from __future__ import annotations

import gc
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import ports
from tests.scenarios.server import ServerProcess
from tests.scenarios.sipp_peer import Sipp

FAILED = pytest.StashKey[bool]()

# The same examples each time, so that a change is judged by what it changes (`make fuzz` looks further), and as slowly
# as a loaded machine makes them.
settings.register_profile(
    "tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tests")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a port that is free on loopback, a different one at each call."""
    return ports.free_port


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start the server on a script's text; each is stopped at the end and its log checked for tracebacks."""
    servers: list[ServerProcess] = []

    def start(script: str, *arguments: str, name: str = "opensips.cfg", wait: bool = True) -> ServerProcess:
        path = tmp_path / name
        path.write_text(script, encoding="utf-8")
        server = ServerProcess(path, tmp_path, arguments)
        servers.append(server)
        server.start(wait=wait)
        return server

    yield start
    for server in servers:
        server.stop()
    for server in servers:
        assert "Traceback" not in server.log_text(), server.log_text()


@pytest.fixture
def sipp(tmp_path: Path) -> Iterator[Callable[..., Sipp]]:
    """Start SIPp with one of tests/scenarios/sipp/*.xml; those still running at the end are ended."""
    if shutil.which("sipp") is None:
        pytest.skip("SIPp is missing: apt-get install sip-tester")
    running: list[Sipp] = []

    def start(scenario: str, target: str, **options: object) -> Sipp:
        peer = Sipp(scenario, target, tmp_path, **options)  # type: ignore[arg-type]
        running.append(peer)
        return peer

    yield start
    for peer in running:
        peer.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Octets that are no text may stand in captured log lines; a report with them could not be sent to the controller
    of pytest-xdist."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What a failed test has left open is closed with it, or a later test would have to answer for it: pytest takes
    warnings about open sockets for errors of the test that runs when they are collected."""
    result = yield
    if item.stash.get(FAILED, False):
        for name in ("last_type", "last_value", "last_traceback"):
            if hasattr(sys, name):
                delattr(sys, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    return result


def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    """Leave the names of the tests that failed to `.ci/run`, in .pytest_cache, unless more than that went wrong."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    cache = getattr(session.config, "cache", None)
    if exitstatus != pytest.ExitCode.TESTS_FAILED or reporter is None or cache is None:
        return
    if hasattr(session.config, "workerinput"):
        return
    failed = {report.nodeid for kind in ("failed", "error") for report in reporter.stats.get(kind, ())}
    (cache.mkdir("opensipspy") / "failed").write_text("".join(f"{name}\n" for name in sorted(failed)), encoding="utf-8")
