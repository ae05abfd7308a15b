"""From and To under other names, and answers to challenges, for requests that pass through.

RFC 3261 §12.2.1.1 has From and To of a dialog equal to those of its first request: whoever changes them for one side
has to change them back for the other, in replies and in later requests of both sides. Replies are restored through
their transaction. Later requests are restored from what the Record-Route URI carried (`stored.py`).

A request that is sent again with credentials is a new one, with a higher CSeq (§22.2). The caller does not know, so
the numbers of all that he sends later in the dialog are raised too, and lowered again in replies.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from opensipspy.module import Fixup, Module, Param, ParamError, Requires, StartError, Wants, script_function
from opensipspy.modules.rr.api import RrApi
from opensipspy.modules.tm.api import REQUEST_IN, RESPONSE_IN, Branch, TmApi, Transaction
from opensipspy.modules.uac.changes import (
    Original,
    change_address,
    cseq_plus,
    current_uri,
    display_text,
    raise_cseq,
)
from opensipspy.modules.uac.stored import decode, encode, is_uri
from opensipspy.modules.uac_auth.api import (
    Login,
    UacAuthApi,
    algorithm_names,
    answer,
    answer_all,
    is_stale,
    read_challenges,
)
from opensipspy.script.kinds import BRANCH, FAILURE, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import (
    H_PROXY_AUTHENTICATE,
    H_WWW_AUTHENTICATE,
    Credentials,
    Message,
    ParseError,
)

CONTEXT: Final = "uac"
"""Key in `run.ctx`; the value is a `UacState`."""
MODES: Final = ("none", "manual", "auto")
CSEQ_PARAM: Final = "aci"
"""Record-Route parameter with what is added to the CSeq numbers of the caller; OpenSIPS' name for it, so that either
carries on with the calls of the other."""
MOST_TRIES: Final = 16
"""As often may one request be sent again with credentials; each server that challenges takes one or two."""
MOST_PLUS: Final = 999
CHALLENGES: Final = {
    401: (H_WWW_AUTHENTICATE, "Authorization"),
    407: (H_PROXY_AUTHENTICATE, "Proxy-Authorization"),
}


class Answered:
    """A challenge that was answered, for one next hop."""

    __slots__ = ("challenge", "count", "header", "login", "place")

    def __init__(self, challenge: Credentials, login: Login, header: str, place: str) -> None:
        self.challenge = challenge
        self.login = login
        self.header = header
        self.place = place
        self.count = 0


class UacState:
    """What was changed in one request.

    watched: replies are looked at. tries: how often it was answered a challenge, which is what CSeq rose by.
    """

    __slots__ = ("answered", "original", "tries", "watched")

    def __init__(self) -> None:
        self.original = Original()
        self.answered: list[Answered] = []
        self.tries = 0
        self.watched = False


def raised_by(text: str | None) -> int:
    """What our Record-Route says of CSeq; 0 for nothing, and for what cannot be from us."""
    if not text or len(text) > 3 or not text.isascii() or not text.isdigit():
        return 0
    return int(text) if int(text) <= MOST_PLUS else 0


Display = Annotated[str | None, Fixup(display_text, "string")]
Algorithms = Annotated[frozenset[str] | None, Fixup(algorithm_names, "string")]


class Uac(Module):
    """Change From and To for one side of a call, and answer the challenges of the next server."""

    name = "uac"
    requires = (Requires("tm"),)
    wants = (Wants("dialog"), Wants("uac_auth"), Wants("rr"))

    restore_mode = Param(
        str, "auto", "none: nothing is changed back; manual: replies are; auto: later requests of the call, too."
    )
    restore_passwd = Param(str, "", "Encrypts and signs what Record-Route carries; not encrypted when empty.")
    rr_from_store_param = Param(str, "vsf", "Record-Route parameter with the URIs of From.")
    rr_to_store_param = Param(str, "vst", "Record-Route parameter with the URIs of To.")
    force_dialog = Param(int, 0, "1 needs the module dialog.")

    def __init__(self, **params: Any) -> None:
        self._rr: RrApi | None = None
        self._auth: UacAuthApi | None = None
        super().__init__(**params)

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        if name == "restore_mode" and self.restore_mode not in MODES:
            raise ParamError(self.name, name, f'"{self.restore_mode}" is none of {", ".join(MODES)}')
        if name in ("rr_from_store_param", "rr_to_store_param"):
            text = str(getattr(self, name))
            if not text or not text.isascii() or not text.replace("_", "").replace("-", "").isalnum():
                raise ParamError(self.name, name, f'"{text}" cannot be the name of a URI parameter')

    async def start(self) -> None:
        if self.force_dialog and self.core.module("dialog") is None:
            raise ParamError(self.name, "force_dialog", "needs the module dialog, which is not loaded")
        if self.rr_from_store_param.lower() == self.rr_to_store_param.lower():
            raise ParamError(self.name, "rr_to_store_param", "is the same as rr_from_store_param")
        self._tm = self.core.api("tm", TmApi)  # type: ignore[type-abstract]
        self._tm.on(REQUEST_IN, self._begun)
        if self.core.module("rr") is not None:
            self._rr = self.core.api("rr", RrApi)  # type: ignore[type-abstract]
            self._rr.on_loose_route(self._follow)
        elif self.restore_mode != "none":
            raise StartError(f'uac: restore_mode "{self.restore_mode}" needs the module rr')
        if self.core.module("uac_auth") is not None:
            self._auth = self.core.api("uac_auth", UacAuthApi)  # type: ignore[type-abstract]
        if self.restore_mode == "auto" and self._rr is not None and not self._rr.has_from_tag():
            raise StartError(
                'uac: restore_mode "auto" needs append_fromtag of rr, which tells the direction of requests'
            )

    # -- replacing -----------------------------------------------------------------------------------------------

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def uac_replace_from(self, run: Run, display: Display = None, uri: str = "") -> int:
        """Replace display and URI of From. "" as display removes it, "" as URI keeps the one that is there.

        In a branch or failure route for its copies only. Returns -1 when the URI is none, or when a request within a
        dialog is to get another one while restore_mode is auto.
        """
        return self._replace(run, "From", display, uri)

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def uac_replace_to(self, run: Run, display: Display = None, uri: str = "") -> int:
        """Replace display and URI of To. As uac_replace_from."""
        return self._replace(run, "To", display, uri)

    def _replace(self, run: Run, header: str, display: str | None, uri: str) -> int:
        uri = uri.strip()
        if uri[:1] == "<" and uri[-1:] == ">":
            uri = uri[1:-1]
        if uri and not is_uri(uri):
            self.core.log.error("uac: %.200r is no URI for %s", uri, header)
            return -1
        msg = run.msg
        try:
            if uri and self.restore_mode == "auto" and msg.to_tag:
                self.core.log.error("uac: %s of a request within a dialog is kept in the mode auto", header)
                return -1
            if uri and self.restore_mode != "none" and not self._store(run, header, uri):
                return -1
            change_address(msg, run.edits, header, display, uri)
            if self.restore_mode != "none":
                self._watch(run, header)
        except ParseError as error:
            self.core.log.info("uac: %s in %s from %s", error.reason, header, msg.source.text)
            return -1
        return 1

    def _store(self, run: Run, header: str, uri: str) -> bool:
        """Let Record-Route carry what has to be known to restore later requests."""
        original = run.msg.from_.uri if header == "From" else run.msg.to.uri
        if self._rr is None or not is_uri(original):
            self.core.log.info("uac: %s of %s cannot be restored later", header, run.msg.source.text)
            return False
        name = self.rr_from_store_param if header == "From" else self.rr_to_store_param
        return self._rr.put_param(run, f";{name}={encode(original, uri, self.restore_passwd, run.msg.call_id)}")

    # -- restoring -----------------------------------------------------------------------------------------------

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def uac_restore_from(self, run: Run) -> int:
        """Change the URI that uac_replace_from() had replaced, in a later request of the call, after loose_route().

        For restore_mode manual. Returns -1 when there is nothing to restore.
        """
        return self._restore(run, "From")

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def uac_restore_to(self, run: Run) -> int:
        """Change the URI that uac_replace_to() had replaced, in a later request of the call. As uac_restore_from."""
        return self._restore(run, "To")

    def _restore(self, run: Run, replaced: str) -> int:
        """Write the URI that the other side knows for whom `replaced` named in the first request."""
        rr = self._rr
        if rr is None:
            return -1
        name = self.rr_from_store_param if replaced == "From" else self.rr_to_store_param
        text = rr.route_param(run, name)
        if not text:
            return -1
        known = decode(text, self.restore_passwd, run.msg.call_id)
        if known is None:
            self.core.log.warning("uac: the Route parameter %s from %s is not ours", name, run.msg.source.text)
            return -1
        original, new = known
        upstream = rr.is_upstream(run)
        # Who called is in To of what the callee sends.
        header = {"From": "To", "To": "From"}[replaced] if upstream else replaced
        try:
            wanted = original if upstream else new
            if current_uri(run.msg, run.edits, header) != wanted:
                change_address(run.msg, run.edits, header, None, wanted)
                self._watch(run, header)
        except ParseError as error:
            self.core.log.info("uac: %s in %s from %s", error.reason, header, run.msg.source.text)
            return -1
        return 1

    def _follow(self, run: Run, params: str) -> None:
        """loose_route() found our Record-Route URI: the request belongs to a call."""
        rr = self._rr
        if rr is None or not run.msg.is_request:
            return
        if self.restore_mode == "auto":
            self._restore(run, "From")
            self._restore(run, "To")
        raised = raised_by(rr.route_param(run, CSEQ_PARAM))
        if raised and not rr.is_upstream(run) and raise_cseq(run.msg, run.edits, raised):
            self._watch(run, "CSeq")

    def _watch(self, run: Run, header: str) -> None:
        """Have one of From, To and CSeq restored in the replies to this request."""
        state = self._state(run)
        state.original.keep(run.msg, header)
        transaction = self._tm.transaction(run)
        if transaction is not None:
            self._listen(transaction, state)

    def _begun(self, transaction: Transaction, run: Any, reply: Message | None, status: int) -> None:
        state = run.ctx.get(CONTEXT) if isinstance(run, Run) else None
        if isinstance(state, UacState):
            self._listen(transaction, state)

    def _listen(self, transaction: Transaction, state: UacState) -> None:
        if state.watched:
            return
        state.watched = True
        original = state.original

        def restore(transaction: Transaction, run: Any, reply: Message | None, status: int) -> None:
            if reply is None:
                return
            try:
                original.restore(reply, run.edits)
            except (ParseError, ValueError) as error:
                self.core.log.info("uac: a reply from %s cannot be restored: %s", reply.source.text, error)

        transaction.on(RESPONSE_IN, restore)

    # -- credentials ---------------------------------------------------------------------------------------------

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def uac_auth(self, run: Run, algorithms: Algorithms = None) -> int:
        """Answer the challenges of the reply that a failure route runs for; t_relay() then sends the request again.

        algorithms: the only ones to use, for example "SHA-256,MD5". Each realm is answered for which uac_auth knows a
        login, with the first algorithm offered (RFC 8760 §2.4). CSeq rises by one (RFC 3261 §22.2). Returns -1 when
        nothing can be answered, or when an answer was refused already (§22.1).
        """
        if self._auth is None:
            self.core.log.error("uac: uac_auth() needs the module uac_auth")
            return -1
        transaction = self._tm.transaction(run)
        if run.kind != FAILURE or transaction is None or not 0 <= run.branch_index < len(transaction.branches):
            self.core.log.error("uac: uac_auth() is for failure routes")
            return -1
        branch = transaction.branches[run.branch_index]
        reply = branch.reply or run.reply
        kind = CHALLENGES.get(branch.status)
        if reply is None or kind is None:
            return -1
        msg = run.msg
        if msg.to_tag and msg.method != "BYE":
            # RFC 3261 §12.2.1.1: the next request of the dialog would have a number that was used already.
            self.core.log.error("uac: %s within a dialog cannot be sent again with another CSeq", msg.method)
            return -1
        return self._authenticate(run, branch, reply, kind, algorithms or frozenset())

    def _authenticate(
        self, run: Run, branch: Branch, reply: Message, kind: tuple[int, str], algorithms: frozenset[str]
    ) -> int:
        auth = self._auth
        assert auth is not None
        msg = run.msg
        state = self._state(run)
        header_kind, header = kind
        place = f"{branch.uri} {branch.dst_uri} {branch.target.peer.text if branch.target is not None else ''}"
        challenges = read_challenges((found.value for found in reply.all(header_kind)), algorithms)
        refused = {found.challenge.realm for found in state.answered if (found.header, found.place) == (header, place)}
        if any(challenge.realm in refused and not is_stale(challenge) for challenge in challenges):
            self.core.log.info("uac: %s does not take the answer to its challenge", reply.source.text)
            return -1
        body = run.edits.body
        content = msg.body if body is None else body
        uri = branch.uri

        def make(challenge: Credentials, login: Login) -> str | None:
            return answer(challenge, login, msg.method, uri, content, auth.cnonce())

        new = answer_all(challenges, lambda realm: auth.login(run, realm), make)
        if not new or state.tries >= MOST_TRIES:
            return -1
        realms = {challenge.realm for challenge, _ in new}
        lines = [f"{header}: {text}\r\n" for _, text in new]
        kept: list[Answered] = []
        for found in state.answered:
            if found.place != place or (found.header == header and found.challenge.realm in realms):
                continue
            # What another server on the way has asked for before: it wants to see it again.
            found.count += 1
            text = answer(found.challenge, found.login, msg.method, uri, content, auth.cnonce(), found.count)
            if text is not None:
                lines.append(f"{found.header}: {text}\r\n")
                kept.append(found)
        if not raise_cseq(msg, run.edits, self._next_plus(run, state)):
            return -1
        for challenge, _ in new:
            login = auth.login(run, challenge.realm)
            if login is not None:
                made = Answered(challenge, login, header, place)
                made.count = 1
                kept.append(made)
        state.answered = kept
        state.tries += 1
        run.edits.append("".join(lines))
        self._watch(run, "CSeq")
        self._go_again(run, branch)
        if not msg.to_tag and self._rr is not None:
            self._rr.put_param(run, f";{CSEQ_PARAM}={cseq_plus(run.edits)}")
        return 1

    def _next_plus(self, run: Run, state: UacState) -> int:
        """What to add so that no number is used twice in this call: those of earlier tries are not in these notes."""
        return state.tries + 1

    def _go_again(self, run: Run, branch: Branch) -> None:
        """The request goes where the challenge came from, unless the script has chosen already."""
        run.ruri = branch.uri
        run.dst_uri = run.dst_uri or branch.dst_uri
        run.path = run.path or branch.path
        if run.socket_out is None:
            run.socket_out = branch.socket

    @script_function(routes=REQUEST | FAILURE | BRANCH)
    def uac_inc_cseq(self, run: Run, cseq: int) -> int:
        """Add `cseq` to the number of CSeq of a request that has a transaction; replies get the old one back.

        Returns -1 without a transaction, or when the sum is no CSeq number (RFC 3261 §8.1.1.5).
        """
        if self._tm.transaction(run) is None:
            self.core.log.error("uac: uac_inc_cseq() needs a transaction: t_newtran() comes first")
            return -1
        try:
            if not raise_cseq(run.msg, run.edits, cseq):
                return -1
            self._watch(run, "CSeq")
        except ParseError:
            return -1
        return 1

    # -- details -------------------------------------------------------------------------------------------------

    def _state(self, run: Run) -> UacState:
        state = run.ctx.get(CONTEXT)
        if not isinstance(state, UacState):
            state = run.ctx[CONTEXT] = UacState()
        return state
