"""Flags of the whole server: a bitmap of 32 that scripts and management set and ask for."""

from __future__ import annotations

from typing import Any, Final

from opensipspy.management.registry import Json
from opensipspy.module import MiError, Module, Param, mi_command, script_function
from opensipspy.script.kinds import ALL
from opensipspy.script.run import Run

FLAGS: Final = 32
MASK: Final = 2**FLAGS - 1
LONGEST_BITMASK: Final = 34


def _mask(text: str) -> int:
    """A mask in decimal or, after 0x, hexadecimal digits; raises MiError."""
    digits = text.strip().lower()
    try:
        value = int(digits, 16 if digits.startswith("0x") else 10) if len(digits) <= LONGEST_BITMASK else 0
    except ValueError:
        value = 0
    if not 0 < value <= MASK:
        raise MiError(400, "Bad parameter value")
    return value


class GFlags(Module):
    """Flags that belong to the server and not to a message."""

    name = "gflags"

    initial = Param(int, 0, "Bitmap of the flags that are set at the start.")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.flags = self.initial & MASK

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        self.flags = self.initial & MASK

    @script_function(routes=ALL)
    def set_gflag(self, run: Run, flag: int) -> int:
        """Set the flag with this number, 0 to 31; -1 for another number."""
        if not 0 <= flag < FLAGS:
            return -1
        self.flags |= 1 << flag
        return 1

    @script_function(routes=ALL)
    def reset_gflag(self, run: Run, flag: int) -> int:
        """Clear the flag with this number, 0 to 31; -1 for another number."""
        if not 0 <= flag < FLAGS:
            return -1
        self.flags &= ~(1 << flag)
        return 1

    @script_function(routes=ALL)
    def is_gflag(self, run: Run, flag: int) -> int:
        """True when the flag with this number, 0 to 31, is set."""
        return 1 if 0 <= flag < FLAGS and self.flags >> flag & 1 else -1

    @mi_command(
        "gflags:set", aliases=("set_gflag", "gflags:set_gflag"), params=(("bitmask",),), types={"bitmask": "string"}
    )
    def mi_set(self, bitmask: str) -> Json:
        """Set all flags of a bitmap."""
        self.flags |= _mask(bitmask)
        return "OK"

    @mi_command(
        "gflags:reset",
        aliases=("reset_gflag", "gflags:reset_gflag"),
        params=(("bitmask",),),
        types={"bitmask": "string"},
    )
    def mi_reset(self, bitmask: str) -> Json:
        """Clear all flags of a bitmap."""
        self.flags &= ~_mask(bitmask)
        return "OK"

    @mi_command(
        "gflags:check", aliases=("is_gflag", "gflags:is_gflag"), params=(("bitmask",),), types={"bitmask": "string"}
    )
    def mi_check(self, bitmask: str) -> Json:
        """Tell whether all flags of a bitmap are set."""
        wanted = _mask(bitmask)
        return self.flags & wanted == wanted

    @mi_command("gflags:get", aliases=("get_gflags", "gflags:get_gflags"))
    def mi_get(self) -> Json:
        """Show the bitmap."""
        return {"hex": f"0x{self.flags:X}", "dec": str(self.flags)}
