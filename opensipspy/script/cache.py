"""Compiled scripts kept between starts, so that a start needs neither Lark nor the checker.

One file a script: a header that must match to the letter, then marshalled plain data. The key covers the text of every
file that was read, the preprocessor, the version of Python and of this package, and the names, sizes and times of the
package's own files. A file that does not match, is damaged, or could have been written by somebody else is not used.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import opensipspy
from opensipspy.script import tree
from opensipspy.script.errors import Pos
from opensipspy.script.globals import Globals
from opensipspy.script.program import Image, Program, RouteImage

MAGIC: Final = b"opensipspy-program-1\n"
MAX_BYTES: Final = 64 * 1024 * 1024
MAX_FOLDER_DEPTH: Final = 4


class CachedScript:
    """What of a script is needed beside its code: the same attributes as `parse.Script`."""

    def __init__(self, path: str, data: dict[str, Any]) -> None:
        self.path: str = path
        self.compiled: bool = True
        self.findings: list[Any] = []
        # What the checker had to say, as it was shown.
        self.warnings: list[str] = [str(text) for text in data["warnings"]]
        self.files: list[str] = list(data["files"])
        self.globals: Globals = Globals.from_data(data["globals"])
        self.loadmodules = [tree.LoadModule(Pos(*pos), name) for pos, name in data["loadmodules"]]
        self.modparams = [
            tree.ModParam(Pos(*pos), module, name, value, *(Pos(*place) for place in places))
            for pos, module, name, value, places in data["modparams"]
        ]
        routes = [RouteImage(*route) for route in data["routes"]]
        self.image: Image = Image(routes, data["recipes"], self.globals)

    @property
    def mpath(self) -> list[str]:
        return list(self.globals.mpath)

    def file_lines(self, file: str) -> list[str]:
        """The lines of a file, read again: nothing of the text is kept."""
        try:
            with open(file, encoding="utf-8", errors="surrogateescape") as text:
                return text.read(MAX_BYTES).split("\n")
        except OSError:
            return []


class ProgramCache:
    """A folder of compiled scripts. A folder that cannot be used makes a cache that is always empty."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def load(self, path: str, preprocessor: str = "") -> CachedScript | None:
        """The compiled form of a script, None when there is none that is up to date."""
        file = self._file(path, preprocessor)
        data = self._read(file)
        if data is None:
            return None
        try:
            if data["key"] != _key(data["files"], preprocessor, data["globals"]["mpath"]):
                return None
            return CachedScript(path, data)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def store(self, script: Any, program: Program, warnings: Sequence[str] = ()) -> bool:
        """Keep a compiled script, and the warnings that each start shows again; False when it cannot be kept. Scripts
        from standard input are not."""
        if script.compiled or script.path == "-":
            return False
        key = _key(script.files, script.preprocessor, script.mpath)
        if key is None:
            return False
        data = {
            "key": key,
            "files": list(script.files),
            "warnings": list(warnings),
            "globals": script.globals.as_data(),
            "loadmodules": [(tuple(m.pos), m.name) for m in script.loadmodules],
            "modparams": [
                (
                    tuple(m.pos),
                    m.module,
                    m.name,
                    m.value,
                    (tuple(m.module_pos), tuple(m.name_pos), tuple(m.value_pos)),
                )
                for m in script.modparams
            ],
            "routes": [route.as_data() for route in program.image.routes],
            "recipes": program.image.recipes,
        }
        try:
            payload = marshal.dumps(data)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _private(self._folder):
                return False
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(MAGIC + hashlib.sha256(payload).digest() + payload)
            os.replace(name, self._file(script.path, script.preprocessor))
        except (OSError, ValueError):
            return False
        return True

    def _file(self, path: str, preprocessor: str) -> Path:
        name = hashlib.sha256(f"{os.path.abspath(path)}\0{preprocessor}".encode("utf-8", "surrogateescape")).hexdigest()
        return self._folder / f"{name[:32]}.program"

    def _read(self, file: Path) -> dict[str, Any] | None:
        try:
            if not _private(file) or not _private(self._folder):
                return None
            raw = file.read_bytes()
        except OSError:
            return None
        head = len(MAGIC) + 32
        if len(raw) > MAX_BYTES or not raw.startswith(MAGIC):
            return None
        payload = raw[head:]
        # marshal trusts its input, so nothing goes in that this program did not write whole.
        if hashlib.sha256(payload).digest() != raw[len(MAGIC) : head]:
            return None
        try:
            data = marshal.loads(payload)
        except (ValueError, EOFError, TypeError):
            return None
        return data if isinstance(data, dict) else None


def _private(path: Path) -> bool:
    """Whether only this user (or root) can have written it."""
    found = path.stat()
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _marks(folder: str, depth: int) -> Iterator[str]:
    """Name, size and time of each source below a folder: what a module declares is in the compiled code."""
    if not os.path.isdir(folder):
        yield f"no {folder}\0"
        return
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        if entry.name.endswith((".py", ".so", ".lark")):
            found = entry.stat()
            yield f"{entry.name}\0{found.st_size}\0{found.st_mtime_ns}\0"
        elif depth < MAX_FOLDER_DEPTH and entry.name[:1] not in ("_", ".") and entry.is_dir():
            yield f"{entry.name}/\0"
            yield from _marks(entry.path, depth + 1)


def _key(files: object, preprocessor: str, mpath: object) -> str | None:
    """What the compiled form depends on; None when a file cannot be read.

    With a preprocessor the output may depend on anything (the environment, the time), so it is never the same twice.
    """
    if preprocessor or not isinstance(files, list | tuple) or not isinstance(mpath, list | tuple):
        return None
    digest = hashlib.sha256()
    digest.update(f"{sys.version}\0{opensipspy.__version__}\0{preprocessor}\0".encode())
    try:
        for folder in (Path(__file__).resolve().parent.parent, *mpath):
            for mark in _marks(os.fspath(folder), 0):
                digest.update(mark.encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    for name in files:
        try:
            with open(name, "rb") as file:
                digest.update(hashlib.sha256(file.read()).digest())
        except OSError:
            return None
    return digest.hexdigest()
