"""What the guides say: links lead somewhere, commands exist, modules that are named can be loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opensipspy.cli.doc import overview, replaced
from opensipspy.cli.main import summaries
from opensipspy.module import module_names

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.skipif(not README.is_file(), reason="the guides are not part of this installation")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    known = {name for name, _ in summaries()}
    for name in re.findall(r"^(?:\$ )?opensipspy ([a-z][a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
        assert name in known, name


def test_the_readme_names_modules_and_scripts_that_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    here = set(module_names())
    table = text[text.index("| area | modules |") : text.index("Some things that the original")]
    back_ends = text[text.index("| for | module and extra |") : text.index("* **Modules**")]
    for name in re.findall(r"`([a-z_0-9]+)`", table + back_ends):
        assert name in here, name
    for script in re.findall(r"`(scripts/[a-z_./]+\.cfg)`", text):
        assert (ROOT / script).is_file(), script
    assert len(text.splitlines()) < 350


def test_extras_of_the_readme_are_those_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = project[project.index("[project.optional-dependencies]") : project.index("[project.scripts]")]
    extras = set(re.findall(r"^([a-z]+) = \[", block, re.MULTILINE)) - {"test", "dev"}
    text = README.read_text(encoding="utf-8")
    listed = text[text.index("There are cassandra") : text.index("A script that needs one")]
    assert set(re.findall(r"[a-z]+", listed.partition("There are ")[2])) - {"and"} == extras


def test_no_module_is_promised_that_is_not_here() -> None:
    promised = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8").partition("## Not here yet")[0]
    assert set(re.findall(r"^\| `([a-z_0-9]+)`", promised, re.MULTILINE)) <= set(module_names())


def test_the_printed_pages_tell_what_is_and_what_is_not() -> None:
    here, _, missing = overview().partition("## Not here yet")
    assert "| `tm` | Keep SIP transactions" in here
    assert "`tm`" not in missing
    assert "| `db_perlvdb` |" in missing
    page = replaced()
    assert "| `children` | udp_workers=N | 3.1 |" in page
    assert "| `memdump` | memory is managed by Python |" in page
