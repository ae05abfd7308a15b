"""The destination set in variables: `$branch(...)`, `$msg.branch.*` and the branch flags.

`$branch` counts the added branches from 0; `$msg.branch.*` counts the Request-URI as 0 and the added ones after it,
and without an index means the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from opensipspy.script import uris
from opensipspy.script.declare import Catalogue, VariableDecl
from opensipspy.script.run import INDEX_ALL, Q_UNSPECIFIED, Branch, Index, Run, Value
from opensipspy.script.runtime import L_WARN, report
from opensipspy.script.services import ScriptServices

FIELDS: Final = ("uri", "duri", "q", "path", "flags", "socket")
MAX_BRANCHES: Final = 64
DELIMITER: Final = ", "
# Attributes of the Request-URI's own branch live in the run's context.
_MAIN_ATTRS: Final = "core.branch.attrs"


def add_branch(run: Run, branch: Branch) -> bool:
    """Append to the destination set, as far as its limit."""
    if len(run.branches) >= MAX_BRANCHES:
        report(run, f"no more than {MAX_BRANCHES} branches fit in the destination set")
        return False
    run.branches.append(branch)
    return True


def set_main_branch(run: Run, branch: Branch) -> None:
    """Make a branch the Request-URI and its attributes."""
    run.ruri = branch.uri
    run.dst_uri = branch.dst_uri
    run.q = branch.q
    run.path = branch.path
    run.branch_flags = branch.flags
    run.socket_out = branch.socket
    run.ctx[_MAIN_ATTRS] = branch.attrs


def main_branch(run: Run) -> Branch:
    """The Request-URI and its attributes as a branch."""
    branch = run.main_branch()
    attrs = run.noted(_MAIN_ATTRS)
    branch.attrs = attrs if isinstance(attrs, dict) else None
    return branch


class BranchVariables:
    """The getters and setters, bound to one server."""

    def __init__(self, services: ScriptServices, catalogue: Catalogue) -> None:
        self.services: ScriptServices = services
        self.catalogue: Catalogue = catalogue

    def _field(self, branch: Branch, field: str) -> Value:
        if field == "uri":
            return branch.uri
        if field == "duri":
            return branch.dst_uri or None
        if field == "q":
            return uris.q_text(branch.q)
        if field == "path":
            return branch.path or None
        if field == "flags":
            return " ".join(self.catalogue.flags.names("branch", branch.flags))
        return branch.socket.text if branch.socket is not None else None

    def _at(self, size: int, index: Index, default: int) -> int:
        """The place an index means among `size` branches, -1 when there is none."""
        if index is None:
            return default
        if not isinstance(index, int):
            return -1
        at = index + size if index < 0 else index
        return at if 0 <= at < size else -1

    def _get(self, branches: list[Branch], field: str, index: Index, default: int) -> Value:
        if not branches:
            return None
        if index == INDEX_ALL:
            values = [self._field(branch, field) for branch in branches]
            return DELIMITER.join("" if value is None else str(value) for value in values)
        at = self._at(len(branches), index, default)
        return self._field(branches[at], field) if at >= 0 else None

    # -- $branch

    def field_name(self, name: str) -> object:
        field = name.lower()
        if field not in FIELDS:
            raise ValueError("a branch has " + ", ".join(FIELDS))
        return field

    def get_branch(self, run: Run, name: str | None, index: Index) -> Value:
        return self._get(run.branches, name or "uri", index, 0)

    def set_branch(self, run: Run, name: str | None, index: Index, value: Value) -> None:
        if name is None:
            return self.append(run, name, index, value)
        at = self._at(len(run.branches), index, 0 if run.branches else -1)
        if at < 0:
            return report(run, f"there is no branch {index if index is not None else 0} to set")
        self._store(run, run.branches[at], name, value)
        return None

    def append(self, run: Run, name: object, index: Index, value: Value) -> None:
        """`$branch = "sip:..."` and `$msg.branch = "sip:..."`: one more branch."""
        if not isinstance(value, str) or not value:
            return report(run, "a new branch needs a URI")
        add_branch(run, Branch(value))
        return None

    def get_main_or_added(self, field: str) -> Callable[[Run, object, Index], Value]:
        def get(run: Run, name: object, index: Index) -> Value:
            branches = [main_branch(run), *run.branches]
            return self._get(branches, field, index, len(branches) - 1)

        return get

    def set_main_or_added(self, field: str) -> Callable[[Run, object, Index, Value], None]:
        def set_(run: Run, name: object, index: Index, value: Value) -> None:
            size = len(run.branches) + 1
            at = self._at(size, index, size - 1)
            if at < 0:
                return report(run, f"there is no branch {index} to set")
            if at > 0:
                self._store(run, run.branches[at - 1], field, value)
            else:
                main = main_branch(run)
                self._store(run, main, field, value)
                set_main_branch(run, main)
            return None

        return set_

    def _store(self, run: Run, branch: Branch, field: str, value: Value) -> None:
        if not run.msg.is_request:
            return report(run, "a reply has no branches")
        if field == "q":
            if isinstance(value, str):
                return report(run, "a branch's q needs an integer, 0 to 1000")
            branch.q = Q_UNSPECIFIED if value is None else min(value, 1000)
            return None
        if isinstance(value, int):
            return report(run, f"a branch's {field} needs a string")
        if field == "uri":
            if not value:
                return report(run, "a branch needs a URI")
            branch.uri = value
        elif field == "duri":
            branch.dst_uri = value or ""
        elif field == "path":
            branch.path = value or ""
        elif field == "flags":
            mask = 0
            for word in (value or "").split():
                mask |= self.catalogue.flags.known("branch", word)
            branch.flags = mask
        else:
            socket = self.services.find_socket(value) if value else None
            if value and socket is None:
                return report(run, f"no listening socket matches {value!r}", L_WARN)
            branch.socket = socket
        return None

    def get_last_index(self, run: Run, name: object, index: Index) -> Value:
        return len(run.branches)

    # -- attributes

    def get_attr(self, run: Run, name: str, index: Index) -> Value:
        size = len(run.branches) + 1
        at = self._at(size, index, size - 1)
        if at < 0:
            return None
        attrs = main_branch(run).attrs if at == 0 else run.branches[at - 1].attrs
        return attrs.get(name) if attrs else None

    def set_attr(self, run: Run, name: str, index: Index, value: Value) -> None:
        size = len(run.branches) + 1
        at = self._at(size, index, size - 1)
        if at < 0:
            return report(run, f"there is no branch {index} to set")
        if at > 0:
            branch = run.branches[at - 1]
            if branch.attrs is None:
                branch.attrs = {}
            branch.attrs[name] = value
            return None
        attrs = run.ctx.get(_MAIN_ATTRS)
        if not isinstance(attrs, dict):
            attrs = run.ctx[_MAIN_ATTRS] = {}
        attrs[name] = value
        return None

    # -- flags

    def flag(self, name: str) -> object:
        return self.catalogue.flags.mask("branch", name)

    def get_flag(self, run: Run, mask: Any, index: Index) -> Value:
        size = len(run.branches) + 1
        at = self._at(size, index, size - 1)
        if at < 0:
            return None
        flags = run.branch_flags if at == 0 else run.branches[at - 1].flags
        return 1 if flags & mask else 0

    def set_flag(self, run: Run, mask: Any, index: Index, value: Value) -> None:
        if not isinstance(value, int):
            return report(run, "a branch flag needs an integer")
        size = len(run.branches) + 1
        at = self._at(size, index, size - 1)
        if at < 0:
            return report(run, f"there is no branch {index}")
        if at == 0:
            run.branch_flags = run.branch_flags | mask if value else run.branch_flags & ~mask
        else:
            branch = run.branches[at - 1]
            branch.flags = branch.flags | mask if value else branch.flags & ~mask
        return None

    def register(self) -> None:
        add = self.catalogue.add_variable
        add(VariableDecl("$branch", "core", self.get_branch, self.set_branch, "optional", True, True,
                         parse_name=self.field_name))  # fmt: skip
        add(VariableDecl("$msg.branch", "core", self.get_main_or_added("uri"), self.append, writable=True))
        for name, field in (("uri", "uri"), ("duri", "duri"), ("q", "q"), ("path", "path"), ("flags", "flags"),
                            ("socket", "socket")):  # fmt: skip
            add(VariableDecl(f"$msg.branch.{name}", "core", self.get_main_or_added(field),
                             self.set_main_or_added(field), index=True, writable=True))  # fmt: skip
        add(VariableDecl("$msg.branch.attr", "core", self.get_attr, self.set_attr, True, True, True))
        add(VariableDecl("$msg.branch.last_idx", "core", self.get_last_index))
        for name in ("$msg.branch.flag", "$branch.flag"):
            add(VariableDecl(name, "core", self.get_flag, self.set_flag, True, True, True, parse_name=self.flag))
