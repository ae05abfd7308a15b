"""A pytest plugin for routing scripts: a fixture that runs them in memory, and coverage in lines of the `.cfg`.

    def test_strangers_are_refused(opensips):
        site = opensips("opensips.cfg")
        assert site.receive(INVITE, "udp:203.0.113.7:5060").reply.status == 403

A test that fails shows the path that its messages took through the script. `--cfg-coverage` prints which lines and
branches of each script ran, `--cfg-coverage=html:FILE` and `--cfg-coverage=lcov:FILE` write reports, and
`--cfg-coverage-fail-under=N` fails the run when less than N percent did. See docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from opensipspy.server.simulation import Simulation

Opensips = Callable[..., "Simulation"]

COVERAGE: Final = pytest.StashKey[Any]()
SITES: Final = pytest.StashKey[list["Simulation"]]()
WORKER: Final = "opensipspy_cfg_coverage"
# Of a long path the end is what a failure is about.
LONGEST_PATH: Final = 150


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("opensipspy", "OpenSIPS routing scripts")
    group.addoption(
        "--cfg-coverage",
        nargs="?",
        const="text",
        action="append",
        default=[],
        metavar="text|html:FILE|lcov:FILE",
        help="report which lines and branches of the routing scripts ran; may be repeated",
    )
    group.addoption(
        "--cfg-coverage-fail-under",
        type=float,
        default=None,
        metavar="PERCENT",
        help="fail when less of the routing scripts ran, lines and branches together",
    )


def pytest_load_initial_conftests(args: list[str]) -> None:
    # What follows a bare --cfg-coverage is a test's path and not the option's value.
    args[:] = ["--cfg-coverage=text" if arg == "--cfg-coverage" else arg for arg in args]


def pytest_configure(config: pytest.Config) -> None:
    wanted = config.getoption("--cfg-coverage")
    for how in wanted:
        if how != "text" and not (how.startswith(("html:", "lcov:")) and len(how) > len("html:")):
            raise pytest.UsageError(f"--cfg-coverage={how}: this is none of text, html:FILE and lcov:FILE")
    if wanted or config.getoption("--cfg-coverage-fail-under") is not None:
        from opensipspy.server.coverage import Coverage

        config.stash[COVERAGE] = Coverage()


@pytest.fixture
def opensips(request: pytest.FixtureRequest) -> Iterator[Opensips]:
    """A function that starts a script in memory: `opensips("opensips.cfg", answers={...}) -> Simulation`.

    The script's path is relative to the test's file. answers: a dict as an answers file has it, the path of such a file
    (relative to the test's file), or an `Answers`; without it everything outside is unknown, and `real=True` leaves
    databases in files to be the real ones. Everything else goes to `Simulation`.
    """
    # Loaded when a test asks for it: other tests of the same run do not pay for it.
    from opensipspy.server.answers import Answers
    from opensipspy.server.simulation import Simulation

    coverage = request.config.stash.get(COVERAGE, None)
    sites = request.node.stash.setdefault(SITES, [])
    folder = request.path.parent
    with ExitStack() as stack:

        def start(path: str | Path, *, answers: Any = None, real: bool = False, **options: Any) -> Simulation:
            if isinstance(answers, dict):
                made = Answers()
                made.add(answers)
                answers = made
            elif isinstance(answers, str | Path):
                answers = Answers.read(str(nearest(folder, answers)))
            elif answers is None and not real:
                answers = Answers()
            simulation = Simulation(str(nearest(folder, path)), answers=answers, **options)
            site = stack.enter_context(simulation)
            sites.append(site)
            if coverage is not None:
                files = {point.file for point in site.journal.points}
                stack.callback(coverage.add, site.journal, {file: site.lines_of(file) for file in files})
            return site

        yield start


def nearest(folder: Path, path: str | Path) -> Path:
    """A path beside the test's file, else as it is seen from the working directory."""
    beside = folder / path
    return beside if beside.exists() else Path(path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    sites = item.stash.get(SITES, [])
    if report.when == "call" and report.failed:
        for number, site in enumerate(sites, 1):
            lines = site.path.split("\n")
            if len(lines) > LONGEST_PATH:
                lines = [f"  ... {len(lines) - LONGEST_PATH} lines before", *lines[-LONGEST_PATH:]]
            name = Path(site.options.script).name
            which = f" ({number} of {len(sites)})" if len(sites) > 1 else ""
            report.sections.append((f"path through {name}{which}", "\n".join(lines)))
    if report.when == "teardown":
        sites.clear()
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    coverage = config.stash.get(COVERAGE, None)
    if coverage is None:
        return
    wanted = list(dict.fromkeys(config.getoption("--cfg-coverage")))
    if "text" in wanted:
        terminalreporter.section("coverage of routing scripts")
        for line in coverage.text():
            terminalreporter.write_line(line)
    for how in wanted:
        if how != "text":
            terminalreporter.write_line(f"coverage of routing scripts written to {coverage.write(how)}")
    problem = too_little(config, coverage)
    if problem:
        terminalreporter.write_line(problem, red=True, bold=True)


def too_little(config: pytest.Config, coverage: Any) -> str:
    """Why --cfg-coverage-fail-under is not met, "" when it is."""
    least = config.getoption("--cfg-coverage-fail-under")
    if least is None:
        return ""
    if not coverage.files:
        return "no routing script ran, so there is no coverage to compare"
    if coverage.percent < least:
        return f"coverage of routing scripts is {coverage.percent:.1f} %, below {least:g} %"
    return ""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    coverage = config.stash.get(COVERAGE, None)
    if coverage is None:
        return
    output = getattr(config, "workeroutput", None)
    if output is not None:
        # A worker of pytest-xdist: the figures are added up by the process that started it.
        output[WORKER] = coverage.as_data()
    elif session.exitstatus == pytest.ExitCode.OK and too_little(config, coverage):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended."""
    coverage = node.config.stash.get(COVERAGE, None)
    data = getattr(node, "workeroutput", {}).get(WORKER)
    if coverage is not None and data is not None:
        coverage.merge(data)
