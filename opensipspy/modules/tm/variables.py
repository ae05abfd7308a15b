"""The variables of `tm`: $T_*, $tm.branch.* and $bavp."""

from __future__ import annotations

from typing import Final

from opensipspy.module import variable
from opensipspy.modules.tm.base import TmBase
from opensipspy.modules.tm.flow import LAST_RECEIVED, armed, branch_of, transaction_of
from opensipspy.script.kinds import BRANCH, FAILURE, ONREPLY, REQUEST
from opensipspy.script.run import INDEX_ALL, INDEX_APPEND, Index, Run, Value
from opensipspy.transaction import Branch
from opensipspy.transaction.tables import INITIAL

MAX_TIMEOUT_S: Final = 86400

SCOPES: Final = ("all", "active")
"""What an index of $tm.branch.* counts from: the first branch of all, or the first of the latest set."""


class TmVariables(TmBase):
    """What scripts read and write of transactions and their branches."""

    @variable("$T_branch_idx")
    def t_branch_idx(self, run: Run, name: object, index: Index) -> Value:
        """Index of the branch at hand, from 0, in a failure route of the one that failed last; NULL in other routes."""
        branch = branch_of(run)
        if branch is None:
            return None
        return branch.transaction.last_final if run.kind == FAILURE else branch.index

    @variable("$T_reply_code")
    def t_reply_code(self, run: Run, name: object, index: Index) -> Value:
        """Status of the reply at hand, of the winning one, or of the last one sent; 0 when there is none."""
        return self.status_of(run)

    @variable("$T_branch_last_reply_code", index=True)
    def t_branch_last_reply_code(self, run: Run, name: object, index: Index) -> Value:
        """Last status received on a branch, by default the one at hand; 0 before any.

        A reply route sees the one before the reply at hand, which is `$rs`.
        """
        branch = self._branch(run, index)
        return self._last_received(run, branch) if branch is not None else None

    def _last_received(self, run: Run, branch: Branch) -> int:
        """The last status of a branch; in its reply route, the one before the reply at hand."""
        if run.kind == ONREPLY and branch is branch_of(run):
            before = run.noted(LAST_RECEIVED)
            if isinstance(before, int):
                return before
        if branch.local and branch.status >= 300 and not branch.discarded:
            return branch.status  # the 408 that was made here, as in OpenSIPS
        return branch.last_received

    @variable("$T_fr_timeout", writable=True)
    def t_fr_timeout(self, run: Run, name: object, index: Index) -> Value:
        """Seconds to wait for the first reply; NULL restores the parameter."""
        found = transaction_of(run)
        value = found.fr_timeout_s if found is not None else armed(run).fr_timeout_s
        return int(value or self.fr_timeout)

    @t_fr_timeout.setter
    def set_t_fr_timeout(self, run: Run, name: object, index: Index, value: Value) -> None:
        found = transaction_of(run)
        wanted = self._timeout(value)
        if wanted is None:
            return
        if found is not None:
            found.fr_timeout_s = wanted
        else:
            armed(run).fr_timeout_s = wanted

    @variable("$T_fr_inv_timeout", writable=True)
    def t_fr_inv_timeout(self, run: Run, name: object, index: Index) -> Value:
        """Seconds to wait for the final reply of an INVITE that rings; NULL restores the parameter."""
        found = transaction_of(run)
        value = found.fr_inv_timeout_s if found is not None else armed(run).fr_inv_timeout_s
        return int(value or self.fr_inv_timeout)

    @t_fr_inv_timeout.setter
    def set_t_fr_inv_timeout(self, run: Run, name: object, index: Index, value: Value) -> None:
        found = transaction_of(run)
        wanted = self._timeout(value)
        if wanted is None:
            return
        if found is not None:
            self.flow.layer.set_fr_inv_timeout(found, wanted, self.core.now())
            self.flow.arm()
        else:
            armed(run).fr_inv_timeout_s = wanted

    def _timeout(self, value: Value) -> float | None:
        """Seconds that a script gave, 0 for NULL; None, and a line in the log, when it is no good."""
        if value is None:
            return 0.0
        try:
            wanted = int(value)
        except ValueError:
            wanted = 0
        if not 0 < wanted <= MAX_TIMEOUT_S:
            self.core.log.error("tm: %r is no time-out in seconds", value)
            return None
        return float(wanted)

    @variable("$T_id")
    def t_id(self, run: Run, name: object, index: Index) -> Value:
        """Identity of the transaction, an opaque text."""
        found = transaction_of(run)
        return found.id if found is not None else None

    @variable("$T_ruri")
    def t_ruri(self, run: Run, name: object, index: Index) -> Value:
        """Request-URI of the branch at hand."""
        found = transaction_of(run)
        if found is None:
            return None
        branch = branch_of(run)
        if branch is not None:
            return branch.run.ruri if run.kind == BRANCH and branch.run is not None else branch.uri
        return run.ruri if run.kind == REQUEST else None

    @variable("$bavp", name_arg=True, index=True)
    def bavp(self, run: Run, name: str, index: Index) -> Value:
        """A value, or a stack of values, that belongs to one branch."""
        branch = branch_of(run)
        stack = branch.avps.get(name) if branch is not None and branch.avps is not None else None
        if not stack:
            return None
        if index == INDEX_ALL:
            return ";".join("" if value is None else str(value) for value in reversed(stack))
        if isinstance(index, str):
            return None
        at = -1 - (index or 0)
        return stack[at] if -len(stack) <= at < len(stack) else None

    @bavp.setter
    def set_bavp(self, run: Run, name: str, index: Index, value: Value) -> None:
        branch = branch_of(run)
        if branch is None:
            return
        if branch.avps is None:
            branch.avps = {}
        stack = branch.avps.setdefault(name, [])
        if index == INDEX_ALL:
            stack[:] = [] if value is None else [value]
        elif index == INDEX_APPEND:
            stack.insert(0, value)
        elif index is None and value is not None:
            stack.append(value)
        elif index is None or isinstance(index, int):
            at = -1 - (index if isinstance(index, int) else 0)
            if -len(stack) <= at < len(stack):
                if value is None:
                    del stack[at]
                else:
                    stack[at] = value
        if not stack:
            del branch.avps[name]

    @bavp.replacer
    def replace_bavp(self, run: Run, name: str, index: Index, value: Value) -> None:
        self.set_bavp(run, name, INDEX_ALL, value)

    def _branch(self, run: Run, index: Index) -> Branch | None:
        """The branch of an index: absolute, from the end when negative, "N/active" within the latest set."""
        found = transaction_of(run)
        if found is None:
            return None
        if index is None:
            return branch_of(run)
        branches = found.branches
        if isinstance(index, str):
            number, _, scope = index.partition("/")
            if scope not in ("", "all", "active") or not number.lstrip("-").isdigit():
                return None
            if scope == "active":
                branches = branches[found.first :]
            index = int(number)
        return branches[index] if -len(branches) <= index < len(branches) else None

    def _sent_branch(self, run: Run, index: Index) -> Branch | None:
        """As `_branch`; NULL for the one that is just being prepared in its branch route."""
        branch = self._branch(run, index)
        return None if branch is not None and branch.state == INITIAL else branch

    @variable("$tm.branch.uri", index=True, index_scopes=SCOPES)
    def branch_uri(self, run: Run, name: object, index: Index) -> Value:
        """Request-URI of a branch."""
        branch = self._sent_branch(run, index)
        return branch.uri if branch is not None else None

    @variable("$tm.branch.duri", index=True, index_scopes=SCOPES)
    def branch_duri(self, run: Run, name: object, index: Index) -> Value:
        """Destination URI of a branch."""
        branch = self._sent_branch(run, index)
        return (branch.dst_uri or None) if branch is not None else None

    @variable("$tm.branch.path", index=True, index_scopes=SCOPES)
    def branch_path(self, run: Run, name: object, index: Index) -> Value:
        """Path of a branch."""
        branch = self._sent_branch(run, index)
        return (branch.path or None) if branch is not None else None

    @variable("$tm.branch.q", index=True, index_scopes=SCOPES)
    def branch_q(self, run: Run, name: object, index: Index) -> Value:
        """q of a branch, in thousandths."""
        branch = self._sent_branch(run, index)
        return branch.q if branch is not None and branch.q >= 0 else None

    @variable("$tm.branch.socket", index=True, index_scopes=SCOPES)
    def branch_socket(self, run: Run, name: object, index: Index) -> Value:
        """Socket that a branch was sent from, "proto:ip:port"."""
        branch = self._sent_branch(run, index)
        return branch.socket.text if branch is not None and branch.socket is not None else None

    @variable("$tm.branch.flags", index=True, index_scopes=SCOPES)
    def branch_flags(self, run: Run, name: object, index: Index) -> Value:
        """Names of the branch flags that are set, separated by commas."""
        branch = self._sent_branch(run, index)
        return ",".join(self.core.flags.names("branch", branch.flags)) if branch is not None else None

    @variable("$tm.branch.flag", index=True, index_scopes=SCOPES, name_arg=True, writable=True)
    def branch_flag(self, run: Run, name: str, index: Index) -> Value:
        """One branch flag by its name: 1 or 0."""
        branch = self._branch(run, index)
        if branch is None:
            return None
        flags = run.branch_flags if run.kind != FAILURE and branch is branch_of(run) else branch.flags
        return 1 if flags & self.core.flags.mask("branch", name) else 0

    @branch_flag.setter
    def set_branch_flag(self, run: Run, name: str, index: Index, value: Value) -> None:
        branch = self._branch(run, index)
        if branch is None:
            return
        bit = self.core.flags.mask("branch", name)
        on = bool(value) and value != "0"
        branch.flags = branch.flags | bit if on else branch.flags & ~bit
        if run.kind != FAILURE and branch is branch_of(run):  # the route's own view is copied back when it ends
            run.branch_flags = branch.flags

    @variable("$tm.branch.attr", index=True, index_scopes=SCOPES, name_arg=True, writable=True)
    def branch_attr(self, run: Run, name: str, index: Index) -> Value:
        """An attribute of a branch: any name, one value."""
        branch = self._branch(run, index)
        return branch.attrs.get(name) if branch is not None and branch.attrs is not None else None

    @branch_attr.setter
    def set_branch_attr(self, run: Run, name: str, index: Index, value: Value) -> None:
        branch = self._branch(run, index)
        if branch is None:
            return
        if branch.attrs is None:
            branch.attrs = {}
        if value is None:
            branch.attrs.pop(name, None)
        else:
            branch.attrs[name] = value

    @variable("$tm.branch.last_received", index=True, index_scopes=SCOPES)
    def branch_last_received(self, run: Run, name: object, index: Index) -> Value:
        """Last status received on a branch; in its reply route, the one before the reply at hand."""
        branch = self._sent_branch(run, index)
        return self._last_received(run, branch) or None if branch is not None else None

    @variable("$tm.branch.type", index=True, index_scopes=SCOPES)
    def branch_type(self, run: Run, name: object, index: Index) -> Value:
        """ "sip", or "phone" for one without signalling that only waits for others."""
        branch = self._sent_branch(run, index)
        if branch is None:
            return None
        return "phone" if branch.phony else "sip"
