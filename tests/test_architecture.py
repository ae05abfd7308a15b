"""The rules of the house, read from the imports of every file with `ast`.

One table says which layer a package belongs to. A file imports only from lower layers, or from its own package; a
module may also import `modules/OTHER/api.py` of a module that its class lists in `requires` or `wants`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "opensipspy"

# package -> layer; files directly below opensipspy/ are listed by their own name.
LAYERS = {
    "sip": 0,
    "script": 1,
    "transaction": 1,
    "db": 1,
    "cachedb": 1,
    "aaa": 1,
    "events": 1,
    "management": 1,
    "cluster": 1,
    "module": 2,
    "modules": 3,
    "dbdrivers": 3,
    "mi": 3,
    "net": 3,
    "server": 4,
    "cli": 5,
    "demo": 4,
    "__init__": -1,
    "pytest_plugin": 5,
    "__main__": 6,
}
LEAVES = {"modules", "dbdrivers", "mi"}
# The clock and the random source are handed in, and nothing there waits (DESIGN: pure packages).
PURE = {"sip", "script", "transaction"}
IMPURE_IMPORTS = {"asyncio", "socket", "time", "random", "threading", "subprocess", "select", "selectors", "ssl"}
# Reading included files and the `-p` preprocessor are the front end's job; they run once, at load.
IMPURE_ALLOWED = {("script/preprocess.py", "subprocess")}
# Calls that make an object whose contents may change; at module level it would be shared by two servers of one process.
MUTABLE_CALLS = {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray", "count"}
MUTABLE_NODES = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def source_files() -> list[Path]:
    """Each Python file of the package once, seen through its name inside `opensipspy`."""
    found = [path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts]
    for linked in ("dbdrivers", "mi", "grammar", "scripts"):
        found += [p for p in (PACKAGE / linked).rglob("*.py") if "__pycache__" not in p.parts and p not in found]
    return sorted(set(found))


FILES = source_files()


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(["opensipspy", *parts])


def type_checking_only(tree: ast.Module) -> set[int]:
    """Ids of the nodes below `if TYPE_CHECKING:`: they cost no import and make no cycle."""
    hidden: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                hidden.update(id(inner) for inner in ast.walk(child))
    return hidden


def imports(path: Path, *, checking: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of each import; `from a import b` yields `a.b`."""
    tree = tree_of(path)
    hidden = set() if checking else type_checking_only(tree)
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")
                anchor = anchor[: len(anchor) - (node.level - 1)]
                base = ".".join([*anchor, base] if base else anchor)
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}"


def package_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def layer(package: str) -> int | None:
    return LAYERS.get(package)


def own_package(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def declared_neighbours(path: Path) -> set[str]:
    """Names in `requires` and `wants` of the module that this file belongs to."""
    parts = path.relative_to(PACKAGE).parts
    files = [path] if len(parts) == 2 else sorted((PACKAGE / parts[0] / parts[1]).rglob("*.py"))
    names: set[str] = set()
    for file in files:
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                wanted = {t.id for t in targets if isinstance(t, ast.Name)}
                if wanted & {"requires", "wants"} and node.value is not None:
                    names |= {c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
    return names


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down_the_layers(path: Path) -> None:
    """A file imports lower layers and its own package; modules meet only at a declared neighbour's api."""
    mine = own_package(path)
    if mine in {"grammar", "scripts"}:
        return
    assert mine in LAYERS, f"{relative(path)}: give the package a layer in this test's table"
    wrong = []
    for line, name in imports(path):
        if not name.startswith("opensipspy"):
            continue
        theirs = package_of(name)
        if theirs not in LAYERS or LAYERS[theirs] < LAYERS[mine]:
            continue
        if theirs == mine:
            if mine not in LEAVES:
                continue
            here, there = path.relative_to(PACKAGE).with_suffix("").parts[1], name.split(".")[2]
            if here == there:
                continue
            if name.split(".")[3:4] == ["api"] and there in declared_neighbours(path):
                continue
        wrong.append(f"{relative(path)}:{line}: {name} (layer {LAYERS[theirs]}, this file is in layer {LAYERS[mine]})")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [p for p in FILES if own_package(p) in PURE], ids=relative)
def test_pure_packages_touch_no_clock_socket_or_loop(path: Path) -> None:
    wrong = [
        f"{relative(path)}:{line}: {name}"
        for line, name in imports(path)
        if name.split(".")[0] in IMPURE_IMPORTS and (relative(path), name.split(".")[0]) not in IMPURE_ALLOWED
    ]
    assert not wrong, "\n".join(wrong)


def lazily_allowed(path: Path, name: str) -> bool:
    """Optional clients are loaded by their driver; a subcommand may load what only it needs."""
    mine = own_package(path)
    if mine in LEAVES:
        return not name.startswith("opensipspy")
    return mine in {"cli", "demo", "__main__", "pytest_plugin", "server"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_import_hides_inside_a_function(path: Path) -> None:
    """Hidden imports hide cycles. Drivers' third-party clients and the start-up path are the exceptions."""
    top = {id(n) for n in tree_of(path).body}
    for block in tree_of(path).body:
        if isinstance(block, ast.If | ast.Try):
            top.update(id(n) for n in ast.walk(block))
    lines = {
        n.lineno for n in ast.walk(tree_of(path)) if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in top
    }
    wrong = [
        f"{relative(path)}:{line}: {name}"
        for line, name in imports(path)
        if line in lines and not lazily_allowed(path, name)
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_import_cycle() -> None:
    """Files import each other in one direction only."""
    known = {dotted(path): path for path in FILES}
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        inside_function = {
            n.lineno
            for f in ast.walk(tree_of(path))
            if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
            for n in ast.walk(f)
            if isinstance(n, ast.Import | ast.ImportFrom)
        }
        targets = set()
        for line, target in imports(path):
            if line in inside_function:
                continue
            if target in known:
                targets.add(target)
            elif target.rpartition(".")[0] in known:
                targets.add(target.rpartition(".")[0])
        edges[name] = targets - {name}
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(name: str) -> None:
        state[name] = 1
        trail.append(name)
        for target in sorted(edges[name]):
            # A package's front door is initialised before its files; only what it imports itself can make a cycle.
            if name.startswith(target + "."):
                continue
            assert state.get(target) != 1, "cycle: " + " -> ".join([*trail[trail.index(target) :], target])
            if target not in state:
                visit(target)
        trail.pop()
        state[name] = 2

    for name in sorted(edges):
        if name not in state:
            visit(name)


def is_constant_table(statement: ast.Assign | ast.AnnAssign) -> bool:
    """`NAME: Final[...]` or an upper-case name: a table of constants, read only by convention and by review."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = [t.id for t in targets if isinstance(t, ast.Name)]
    return bool(names) and all(n.isupper() or n.strip("_").isupper() or n.startswith("__") for n in names)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_module_level_mutable_state(path: Path) -> None:
    """State sits on instances, so that two servers live in one process. Constant tables are in upper case."""
    wrong = []
    for node in tree_of(path).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None or is_constant_table(node):
            continue
        value = node.value
        made = isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in MUTABLE_CALLS
        if isinstance(value, MUTABLE_NODES) or made:
            wrong.append(f"{relative(path)}:{node.lineno}: {ast.unparse(node)[:80]}")
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Global):
            wrong.append(f"{relative(path)}:{node.lineno}: global {', '.join(node.names)}")
    assert not wrong, "\n".join(wrong)


def leaf_modules() -> list[Path]:
    found = []
    for folder in sorted(LEAVES):
        for path in sorted((PACKAGE / folder).iterdir()):
            if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file():
                found.append(path)
    return found


@pytest.mark.parametrize("path", leaf_modules(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_each_module_has_a_test_file(path: Path) -> None:
    """The test tree mirrors the source: modules/NAME -> tests/modules/test_NAME*.py."""
    folder = ROOT / "tests" / path.parent.name
    assert list(folder.glob(f"test_{path.stem}*.py")), f"add tests/{path.parent.name}/test_{path.stem}.py"


@pytest.mark.parametrize("path", FILES + sorted((ROOT / "tests").rglob("*.py")), ids=str)
def test_no_second_copy_of_the_linked_folders(path: Path) -> None:
    """With the checkout on the path `import mi` works too, and would make a second copy of every class."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [n.name for n in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        wrong += [n for n in names if n.split(".")[0] in {"mi", "dbdrivers", "grammar", "scripts"}]
    assert not wrong, f"import opensipspy.{wrong[0]} instead" if wrong else ""
