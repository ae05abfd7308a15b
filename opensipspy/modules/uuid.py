"""UUIDs for scripts (RFC 9562)."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID, uuid1, uuid3, uuid4, uuid5

from opensipspy.module import Module, WritableVar, script_function, variable
from opensipspy.script.declare import Index, Value
from opensipspy.script.kinds import ALL
from opensipspy.script.run import Run, VarRef

VARIANT: Final = 0b10


def _version(name: str) -> int:
    text = name.strip()
    if text not in ("0", "1", "4", "7"):
        raise ValueError("the version of $uuid is 0, 1, 4 or 7")
    return int(text)


class Uuid(Module):
    """Make unique identifiers."""

    name = "uuid"

    def make(self, version: int) -> UUID:
        """A new identifier of version 1, 4 or 7; 0 is 4. Raises ValueError for another one."""
        if version in (0, 4):
            return uuid4()
        if version == 1:
            return uuid1()
        if version == 7:
            # RFC 9562 §5.7: 48 bits of milliseconds, version, 12 random bits, variant, 62 random bits.
            random = uuid4().int
            milliseconds = int(self.core.time() * 1000) & (2**48 - 1)
            high = milliseconds << 16 | 7 << 12 | random >> 116
            return UUID(int=high << 64 | VARIANT << 62 | random & (2**62 - 1))
        raise ValueError(f"there is no version {version} without a name")

    @script_function(routes=ALL)
    def uuid(
        self,
        run: Run,
        out_var: Annotated[VarRef, WritableVar()],
        version: int = 0,
        namespace: str | None = None,
        name: str | None = None,
    ) -> int:
        """Write a new UUID of version 0 (the best there is), 1, 3, 4, 5 or 7; 3 and 5 hash `name` in `namespace`.

        Returns 1; -1 for an unknown version, a namespace that is no UUID, or 3 and 5 without namespace and name.
        """
        try:
            if version in (3, 5):
                if namespace is None or name is None:
                    return -1
                space = UUID(namespace)
                made = uuid3(space, name) if version == 3 else uuid5(space, name)
            else:
                made = self.make(version)
        except ValueError:
            return -1
        out_var.set(run, str(made))
        return 1

    @variable("$uuid", name_arg="optional", parse_name=_version)
    def new(self, run: Run, name: int | None, index: Index) -> Value:
        """A new UUID of version 0 (as without a version), 1, 4 or 7, at every reading."""
        return str(self.make(name or 0))
