"""`opensipspy test [PYTEST ARGUMENTS]`: the tests of routing scripts, with pytest and this package's plugin.

    opensipspy test                                     the tests below this folder
    opensipspy test tests/ --cfg-coverage --cfg-coverage-fail-under=90

See docs/testing.md.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import entry_points
from typing import Final

SUMMARY = "run unit tests of routing scripts (pytest with the fixture `opensips`)"
PLUGIN: Final = "opensipspy.pytest_plugin"


def configure(parser: argparse.ArgumentParser) -> None:
    # Every word is pytest's own, those with a dash too.
    parser.prefix_chars = "\0"
    parser.add_argument("arguments", nargs="*", metavar="PYTEST ARGUMENT")


def run(args: argparse.Namespace) -> int:
    try:
        import pytest
    except ImportError:
        print("opensipspy test: pytest is missing: pip install 'opensipspy[test]'", file=sys.stderr)
        return 1
    # An installed package has its plugin loaded by pytest itself; a second time would be an error.
    known = any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))
    plugin = [] if known else ["-p", PLUGIN]
    # This command is of the package whose plugin pytest would like to rewrite.
    quiet = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*quiet, *plugin, *args.arguments]))
