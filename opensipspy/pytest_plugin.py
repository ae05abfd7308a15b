"""A pytest plugin for routing scripts: a fixture that runs them in memory, and coverage in lines of the `.cfg`.

    def test_strangers_are_refused(opensips):
        site = opensips("opensips.cfg")
        [reply] = site.receive(INVITE, "udp:203.0.113.7:5060")
        assert reply.first_line == "SIP/2.0 403 Relay denied"

`pytest --cfg-coverage` prints which lines of each script ran; `--cfg-coverage=lcov:FILE` writes them for other tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import CodeType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from opensipspy.server.simulation import Simulation

Site = Callable[..., "Simulation"]


class Coverage:
    """Which lines of which scripts could run, and which did."""

    def __init__(self) -> None:
        self.possible: dict[str, set[int]] = {}
        self.seen: dict[str, set[int]] = {}

    def add(self, site: Simulation) -> None:
        """Count the lines of a simulation's script and those that ran in it."""
        for route in site.loaded.program.all_routes():
            if route.code is not None:
                lines = self.possible.setdefault(route.code.co_filename, set())
                # The first line is the block's own: it is no statement.
                lines |= lines_of(route.code) - {route.code.co_firstlineno}
        for step in site.steps:
            self.seen.setdefault(step.file, set()).add(step.line)

    def rows(self) -> list[tuple[str, int, int, list[int]]]:
        """(file, statements, missed, the lines missed) of each script."""
        found = []
        for file, possible in sorted(self.possible.items()):
            missed = sorted(possible - self.seen.get(file, set()))
            found.append((file, len(possible), len(missed), missed))
        return found

    def lcov(self) -> str:
        """The report in lcov's format."""
        out = []
        for file, possible in sorted(self.possible.items()):
            seen = self.seen.get(file, set())
            out.append(f"TN:\nSF:{file}")
            out += [f"DA:{line},{int(line in seen)}" for line in sorted(possible)]
            out.append(f"LF:{len(possible)}\nLH:{len(possible & seen)}\nend_of_record")
        return "\n".join(out) + "\n"


def lines_of(code: CodeType) -> set[int]:
    """The lines that have an instruction, those of functions inside included."""
    lines = {line for _, _, line in code.co_lines() if line}
    for const in code.co_consts:
        if isinstance(const, CodeType):
            lines |= lines_of(const)
    return lines


def ranges(lines: list[int]) -> str:
    """Line numbers in short: "3, 7-9"."""
    parts: list[list[int]] = []
    for line in lines:
        if parts and line == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], line]
        else:
            parts.append([line])
    return ", ".join("-".join(map(str, part)) for part in parts)


COVERAGE = pytest.StashKey[Coverage]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("opensipspy", "OpenSIPS routing scripts")
    group.addoption(
        "--cfg-coverage",
        nargs="?",
        const="text",
        default="",
        metavar="text|lcov:FILE",
        help="report which lines of the routing scripts ran",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cfg-coverage"):
        config.stash[COVERAGE] = Coverage()


@pytest.fixture
def opensips(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A function that starts a simulation of a script: `opensips("opensips.cfg", functions={...}) -> Simulation`."""
    # Loaded when a test asks for it: other tests of the same run do not pay for it.
    from opensipspy.server.simulation import Simulation

    coverage = request.config.stash.get(COVERAGE, None)
    with ExitStack() as stack:

        def start(path: str, **options: Any) -> Simulation:
            site = stack.enter_context(Simulation(str(path), **options))
            if coverage is not None:
                site.always_trace = True
                stack.callback(coverage.add, site)
            return site

        yield start


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    coverage = config.stash.get(COVERAGE, None)
    if coverage is None:
        return
    how = str(config.getoption("--cfg-coverage"))
    if how.startswith("lcov:"):
        with open(how.removeprefix("lcov:"), "w", encoding="utf-8") as report:
            report.write(coverage.lcov())
        return
    terminalreporter.section("coverage of routing scripts")
    for file, count, missed, lines in coverage.rows():
        share = 100 * (count - missed) / count if count else 100
        terminalreporter.write_line(f"{file}  {count} lines, {missed} missed, {share:.0f} %  {ranges(lines)}")
