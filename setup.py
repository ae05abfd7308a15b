"""Builds the hot path with mypyc when that is possible; every file of it also runs as plain Python.

`OPENSIPSPY_PURE=1` skips the compiler. Without mypy, without a C compiler or with a type error the wheel is built
pure, and a line on standard error says so.
"""

from __future__ import annotations

import os
import sys
from glob import glob

from setuptools import setup

# The path of a message: what runs for each packet, and nothing that runs once at start. Left out is what mypyc gains
# nothing from: the script's own code, coroutines, and modules, whose class attributes are declarations. Measured with
# `python -m bench`.
HOT_PATH = (
    "opensipspy/sip/*.py",
    "opensipspy/transaction/*.py",
    "opensipspy/net/network.py",
    "opensipspy/net/traffic.py",
    "opensipspy/net/udp.py",
    "opensipspy/module/reply_path.py",
    "opensipspy/module/target.py",
    "opensipspy/modules/auth/check.py",
    "opensipspy/modules/auth/nonce.py",
    "opensipspy/modules/rr/routing.py",
    "opensipspy/modules/registrar/answer.py",
    "opensipspy/modules/registrar/aor.py",
    "opensipspy/modules/registrar/binding.py",
    "opensipspy/modules/registrar/refusal.py",
    "opensipspy/modules/registrar/request.py",
    "opensipspy/modules/tm/flow.py",
    "opensipspy/modules/tm/loops.py",
    "opensipspy/modules/usrloc/contact.py",
    "opensipspy/modules/usrloc/memory.py",
    "opensipspy/script/run.py",
    "opensipspy/script/runtime.py",
    "opensipspy/script/transformations.py",
    "opensipspy/script/variables.py",
    "opensipspy/script/variables_branch.py",
    "opensipspy/server/identity.py",
    "opensipspy/server/steps.py",
    "opensipspy/server/wheel.py",
)
# Not the strict settings of pyproject.toml: an isolated build has none of the packages that the hot path's neighbours
# import, and what is imported from them is then untyped.
MYPY_FLAGS = ["--config-file=", "--ignore-missing-imports"]
# Front doors only import; compiling them gains nothing and hides names from tools.
LEFT_PLAIN = ("__init__.py",)
# Compiled functions call each other, and the interpreter, without a detour over the linker's table: 3 % fewer
# instructions for a call. Only what the import system looks for is marked as visible by Python's headers.
C_FLAGS = ["-fvisibility=hidden", "-fno-plt"]


def hot_path() -> list[str]:
    return sorted(path for pattern in HOT_PATH for path in glob(pattern) if not path.endswith(LEFT_PLAIN))


def extensions() -> list[object]:
    if os.environ.get("OPENSIPSPY_PURE") == "1":
        return []
    try:
        from mypyc.build import mypycify

        compiled = mypycify([*MYPY_FLAGS, *hot_path()], opt_level="3", debug_level="0")
    except (ImportError, SystemExit) as error:
        print(f"opensipspy: the hot path is not compiled ({error}); plain Python is installed", file=sys.stderr)
        return []
    for extension in compiled:
        extension.optional = True
        extension.extra_compile_args += C_FLAGS
    return compiled


setup(ext_modules=extensions())
