"""Finding a module by the name that `loadmodule` gives: a file of that name in one of the known places."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from opensipspy.module.module import Module

PACKAGES: Final = ("opensipspy.modules", "opensipspy.dbdrivers", "opensipspy.mi")


class ModuleLoadError(Exception):
    """A module cannot be loaded; `hint` is the nearest name or what has to be installed."""

    def __init__(self, name: str, reason: str, hint: str = "") -> None:
        super().__init__(f"module {name}: {reason}" + (f" ({hint})" if hint else ""))
        self.name = name
        self.reason = reason
        self.hint = hint


def plain_name(name: str) -> str:
    """`/usr/lib/opensips/modules/tm.so` and `tm.so` are `tm`."""
    return name.rpartition("/")[2].removesuffix(".so").removesuffix(".py")


def file_name(name: str) -> str:
    """The Python name of a module's file: `rtp.io` lives in `rtp_io.py`."""
    return name.replace(".", "_").replace("-", "_")


def module_names() -> list[str]:
    """File names of all modules that ship with the package, sorted."""
    names = []
    for package in PACKAGES:
        paths = importlib.import_module(package).__path__
        names += [info.name for info in pkgutil.iter_modules(paths) if not info.name.startswith("_")]
    return sorted(names)


def find_module(name: str, mpath: Sequence[str] = ()) -> type[Module]:
    """The class of a module; raises ModuleLoadError.

    mpath: further folders, each holding NAME.py or NAME/__init__.py, looked at last.
    """
    plain = plain_name(name)
    wanted = file_name(plain)
    if not wanted.isidentifier():
        raise ModuleLoadError(plain, "is no module name")
    for package in PACKAGES:
        full = f"{package}.{wanted}"
        try:
            found = importlib.util.find_spec(full)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return module_class(_import(plain, full), plain)
    for folder in mpath:
        loaded = _from_folder(Path(folder), plain, wanted)
        if loaded is not None:
            return module_class(loaded, plain)
    near = difflib.get_close_matches(wanted, module_names(), n=1, cutoff=0.6)
    raise ModuleLoadError(plain, "not found", f"did you mean {near[0]}?" if near else "")


def _import(name: str, full: str) -> ModuleType:
    try:
        return importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("opensipspy"):
            raise
        raise ModuleLoadError(name, f"needs the Python package {error.name}", f"pip install {error.name}") from error


def _from_folder(folder: Path, name: str, wanted: str) -> ModuleType | None:
    for path in (folder / f"{wanted}.py", folder / wanted / "__init__.py"):
        if not path.is_file():
            continue
        # The folder's own text tells two modules of one name in different folders apart.
        full = f"opensipspy_mpath_{abs(hash(str(folder.resolve()))):x}.modules.{wanted}"
        if full in sys.modules:
            return sys.modules[full]
        search = [str(path.parent)] if path.name == "__init__.py" else None
        spec = importlib.util.spec_from_file_location(full, path, submodule_search_locations=search)
        if spec is None or spec.loader is None:
            raise ModuleLoadError(name, f"{path} cannot be read as Python")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[full]
            raise ModuleLoadError(name, f"{path}: {type(error).__name__}: {error}") from error
        return module
    return None


def module_class(loaded: ModuleType, name: str) -> type[Module]:
    """The Module subclass that a file defines for `name`."""
    candidates = [
        value
        for value in vars(loaded).values()
        if inspect.isclass(value)
        and issubclass(value, Module)
        and value is not Module
        and (value.__module__ == loaded.__name__ or value.__module__.startswith(loaded.__name__ + "."))
        and not inspect.isabstract(value)
    ]
    named = [c for c in candidates if c.name == name or file_name(c.name) == file_name(name)]
    if len(named) != 1:
        found = "no class" if not named else "several classes"
        raise ModuleLoadError(name, f"{loaded.__name__} defines {found} of that name derived from Module")
    return named[0]


def all_modules() -> Iterator[type[Module]]:
    """The classes of all modules that ship with the package, by name."""
    for name in module_names():
        yield find_module(name)
