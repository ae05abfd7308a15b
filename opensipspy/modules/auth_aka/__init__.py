"""AKA authentication of IMS phones (RFC 3310, RFC 4169): digests whose nonce and password come from vectors.

The vectors come from an AV manager (module aka_av_diameter is one), from the script, or from management commands, and
are kept until they are used or old. AKAv1 and AKAv2 are challenged and checked, with MD5, SHA-256 and SHA-512-256.
The challenge carries CK and IK for the P-CSCF, which has to take them out (3GPP TS 24.229 §5.4.1.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final

from opensipspy.management.registry import Json
from opensipspy.module import (
    Fixup,
    MiError,
    Module,
    Omittable,
    Param,
    ParamError,
    Requires,
    Timer,
    WritableVar,
    mi_command,
    script_function,
)
from opensipspy.modules.auth.api import (
    AUTHORIZED,
    GENERIC_ERROR,
    INVALID_PASSWORD,
    INVALID_USER,
    NO_CREDENTIALS,
    STALE_NONCE,
)
from opensipspy.modules.auth_aka.api import AkaApi, AvManager
from opensipspy.modules.auth_aka.vectors import (
    MAX_USERS,
    MAX_VECTORS,
    NAMES,
    NEW,
    User,
    Vector,
    algorithm_list,
    resync,
)
from opensipspy.script.kinds import ALL, REQUEST
from opensipspy.script.run import Run, VarRef
from opensipspy.sip import (
    H_AUTHORIZATION,
    H_PROXY_AUTHORIZATION,
    M_ACK,
    M_CANCEL,
    Credentials,
    ParseError,
    digest,
    parse_uri,
)

SYNC_REQUESTED: Final = -6
NO_VECTOR: Final = -2
NOT_SENT: Final = -5
QOPS: Final = ("auth", "auth-int")
MAX_FIELD: Final = 512
"""Characters in one field of the credentials."""
MAX_WAITING: Final = 20_000
"""Challenges that wait for vectors; a further one fails at once."""

Key = tuple[str, str]


def qop_list(text: str) -> str:
    """The qop argument of a challenge, "auth,auth-int", without spaces."""
    found = [word.strip().lower() for word in text.split(",") if word.strip()]
    for word in found:
        if word not in QOPS:
            raise ValueError(f'"{word}" is no qop: those are auth and auth-int')
    return ",".join(found)


Qop = Annotated[str | None, Omittable(), Fixup(qop_list, "string")]
Algorithms = Annotated[tuple[str, ...] | None, Omittable(), Fixup(algorithm_list, "string")]
Text = Annotated[str | None, Omittable()]


class AuthAka(Module, AkaApi):
    """Challenge IMS phones with authentication vectors and check what they answer."""

    name = "auth_aka"
    requires = (Requires("auth"),)

    default_av_mgm = Param(str, None, "The AV manager of challenges that name none.")
    default_qop = Param(str, "auth", "The qop of challenges that name none.")
    default_algorithm = Param(str, "AKAv1-MD5", "The algorithms of challenges that name none, separated by commas.")
    hash_size = Param(int, 4096, "A power of two; accepted for compatibility, the table grows by itself.")
    sync_timeout = Param(int, 100, "How long a challenge waits for its vectors at least; 0 for no limit.", unit="ms")
    async_timeout = Param(int, 1000, "How long it waits: no other message waits with it in either form.", unit="ms")
    unused_timeout = Param(int, 60, "How long a vector that nobody needed is kept.", unit="s")
    pending_timeout = Param(int, 30, "How long a vector that was given out can be answered.", unit="s")

    expiry = Timer(1, "expire")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        for name in ("async_timeout", "unused_timeout", "pending_timeout", "hash_size"):
            if getattr(self, name) < 1:
                raise ParamError(self.name, name, "is above 0")
        if self.sync_timeout < 0:
            raise ParamError(self.name, "sync_timeout", "is not below 0")
        if self.hash_size & self.hash_size - 1:
            raise ParamError(self.name, "hash_size", "is a power of two")
        self._users: dict[Key, User] = {}
        self._managers: dict[str, AvManager] = {}
        self._waiters: dict[Key, list[asyncio.Event]] = {}
        self._waiting = 0

    def api(self) -> AkaApi:
        return self

    async def start(self) -> None:
        try:
            self._qop = qop_list(self.default_qop)
        except ValueError as error:
            raise ParamError(self.name, "default_qop", str(error)) from error
        try:
            self._algorithms = algorithm_list(self.default_algorithm)
        except ValueError as error:
            raise ParamError(self.name, "default_algorithm", str(error)) from error

    # --- the store

    def manage(self, name: str, manager: AvManager) -> None:
        self._managers[name] = manager

    def _user(self, key: Key) -> User:
        user = self._users.get(key)
        if user is None:
            if len(self._users) >= MAX_USERS:
                raise ValueError("too many users have vectors")
            user = self._users[key] = User()
        return user

    def add(
        self,
        public_identity: str,
        private_identity: str,
        authenticate: str,
        authorize: str,
        confidentiality_key: str,
        integrity_key: str,
        algorithms: Sequence[str] = (),
    ) -> None:
        now = self.core.now()
        vector = Vector(authenticate, authorize, confidentiality_key, integrity_key, algorithms, now)
        key = (public_identity, private_identity)
        user = self._user(key)
        if len(user.vectors) >= MAX_VECTORS:
            raise ValueError(f"the user has {MAX_VECTORS} vectors")
        user.vectors.append(vector)
        self._wake(key)

    def fail(self, public_identity: str, private_identity: str, count: int = 1) -> bool:
        key = (public_identity, private_identity)
        user = self._users.get(key)
        if user is None:
            return False
        # Only those who wait now are told: a later challenge asks again.
        if key in self._waiters:
            user.failures += max(0, count)
            self._wake(key)
        return True

    def _drop(self, public_identity: str, private_identity: str, nonce: str | None = None) -> int:
        """Forget vectors, all or that of a nonce. Returns how many."""
        user = self._users.get((public_identity, private_identity))
        if user is None:
            return 0
        before = len(user.vectors)
        user.vectors = [vector for vector in user.vectors if nonce is not None and vector.nonce != nonce]
        return before - len(user.vectors)

    def _wake(self, key: Key) -> None:
        for event in self._waiters.get(key, ()):
            event.set()

    def expire(self) -> None:
        """Forget what is too old."""
        now = self.core.now()
        for key, user in list(self._users.items()):
            user.vectors = [
                vector
                for vector in user.vectors
                if now - vector.since < (self.unused_timeout if vector.state == NEW else self.pending_timeout)
            ]
            if not user.vectors and key not in self._waiters:
                del self._users[key]

    # --- challenges

    @script_function(routes=REQUEST, async_ok=True)
    async def aka_www_challenge(
        self, run: Run, av_mgm: Text = None, realm: Text = None, qop: Qop = None, alg: Algorithms = None
    ) -> int:
        """Answer 401 with one WWW-Authenticate header for each algorithm for which there is a vector.

        realm: the domain of From when it is left out. Returns the number of headers; -1 for a request without what is
        needed, -2 when there was no vector, -5 when no answer was sent.
        """
        return await self._challenge(run, H_AUTHORIZATION, av_mgm, realm, qop, alg)

    @script_function(routes=REQUEST, async_ok=True)
    async def aka_proxy_challenge(
        self, run: Run, av_mgm: Text = None, realm: Text = None, qop: Qop = None, alg: Algorithms = None
    ) -> int:
        """Answer 407 with Proxy-Authenticate headers; the realm is the domain of To when it is left out.

        As aka_www_challenge.
        """
        return await self._challenge(run, H_PROXY_AUTHORIZATION, av_mgm, realm, qop, alg)

    async def _challenge(
        self,
        run: Run,
        kind: int,
        manager_name: str | None,
        realm: str | None,
        qop: str | None,
        algorithms: tuple[str, ...] | None,
    ) -> int:
        realm = realm or self._domain(run, kind)
        public = self._public_identity(run, kind)
        if not realm or not public or '"' in realm:
            return -1
        found = self._credentials(run, kind, realm)
        if found == GENERIC_ERROR:
            return -1
        credentials = found if isinstance(found, Credentials) else None
        private = credentials.username if credentials is not None else public.partition(":")[2]
        sync = None
        auts = credentials.param("auts") if credentials is not None else None
        if credentials is not None and auts:
            # Only who was challenged may ask for it: the HSS is not to work for everybody.
            if self._given_out(public, private, credentials) is None:
                self.core.log.info("auth_aka: a resynchronisation of %s without a challenge of ours", private)
                return -1
            try:
                sync = resync(credentials.nonce, auts)
            except ValueError as error:
                self.core.log.info("auth_aka: a resynchronisation of %s: %s", private, error)
                return -1
            self._drop(public, private)
        wanted = algorithms or self._algorithms
        vectors = await self._vectors(realm, (public, private), manager_name, sync, wanted)
        if not vectors:
            return NO_VECTOR
        name = "WWW-Authenticate" if kind == H_AUTHORIZATION else "Proxy-Authenticate"
        options = self._qop if qop is None else qop
        lines = [
            f"{name}: {digest.challenge(realm, vector.nonce, qop='', algorithm=vector.algorithm)}"
            f', ck="{vector.confidentiality_key}", ik="{vector.integrity_key}"'
            + (f', qop="{options}"' if options else "")
            + "\r\n"
            for vector in vectors
        ]
        code, reason = (401, "Unauthorized") if kind == H_AUTHORIZATION else (407, "Proxy Authentication Required")
        if self.core.send_reply(run, code, reason, "".join(lines)) <= 0:
            return NOT_SENT
        return len(vectors)

    async def _vectors(
        self, realm: str, key: Key, manager_name: str | None, sync: bytes | None, wanted: tuple[str, ...]
    ) -> list[Vector]:
        """One vector for each algorithm, from the store or fetched; fewer when some do not come in time."""
        taken: dict[str, Vector] = {}
        try:
            user = self._user(key)
        except ValueError as error:
            self.core.log.error("auth_aka: no challenge for %s: %s", key[1], error)
            return []
        self._take(user, wanted, taken)
        missing = [name for name in wanted if name not in taken]
        if missing:
            name = manager_name or self.default_av_mgm
            manager = self._managers.get(name or "")
            if manager is None:
                self.core.log.error(
                    "auth_aka: no vector is there and no module offers the AV manager %s", name or "(none is named)"
                )
            elif self._waiting >= MAX_WAITING:
                self.core.log.error("auth_aka: too many challenges wait for vectors")
            else:
                await self._fetch(manager, realm, key, sync, missing, wanted, taken)
        return [taken[name] for name in wanted if name in taken]

    def _take(self, user: User, wanted: Sequence[str], taken: dict[str, Vector]) -> None:
        now = self.core.now()
        for name in wanted:
            if name not in taken:
                vector = user.take(name, now)
                if vector is not None:
                    taken[name] = vector

    async def _fetch(
        self,
        manager: AvManager,
        realm: str,
        key: Key,
        sync: bytes | None,
        missing: Sequence[str],
        wanted: Sequence[str],
        taken: dict[str, Vector],
    ) -> None:
        event = asyncio.Event()
        self._waiters.setdefault(key, []).append(event)
        self._waiting += 1
        limit = None if self.sync_timeout == 0 else max(self.sync_timeout, self.async_timeout) / 1000
        self.core.spawn(manager.fetch(realm, key[0], key[1], sync, missing), "auth_aka vectors")
        try:
            # A script is no task: what has a limit runs in one of its own.
            await self.core.wait(self._collect(key, event, wanted, taken), limit)
        except TimeoutError:
            self.core.log.warning("auth_aka: %d of %d vectors for %s came in time", len(taken), len(wanted), key[1])
        finally:
            self._waiting -= 1
            self._waiters[key].remove(event)
            if not self._waiters[key]:
                del self._waiters[key]
                if key in self._users:
                    self._users[key].failures = 0

    async def _collect(self, key: Key, event: asyncio.Event, wanted: Sequence[str], taken: dict[str, Vector]) -> None:
        """Take vectors as they come, until all are there or will not come."""
        failed = 0
        while True:
            user = self._user(key)
            self._take(user, wanted, taken)
            lost = min(user.failures, len(wanted) - len(taken) - failed)
            user.failures -= lost
            failed += lost
            if len(taken) + failed >= len(wanted):
                return
            event.clear()
            await event.wait()

    # --- authorization

    @script_function(routes=REQUEST)
    def aka_www_authorize(self, run: Run, realm: Text = None) -> int:
        """Check the Authorization credentials against the vector that the challenge was made of.

        Returns 1, or -1 no user name, -2 wrong response, -3 unknown nonce, -4 no credentials, -5 other errors, -6 the
        phone asks for resynchronisation: challenge it again.
        """
        return self._authorize(run, H_AUTHORIZATION, realm)

    @script_function(routes=REQUEST)
    def aka_proxy_authorize(self, run: Run, realm: Text = None) -> int:
        """Check the Proxy-Authorization credentials. As aka_www_authorize."""
        return self._authorize(run, H_PROXY_AUTHORIZATION, realm)

    def _authorize(self, run: Run, kind: int, realm: str | None) -> int:
        if run.msg.method_id & (M_ACK | M_CANCEL):
            # RFC 3261 §22.1: neither can be challenged.
            return AUTHORIZED
        found = self._credentials(run, kind, realm or self._domain(run, kind))
        if isinstance(found, int):
            return found
        public = self._public_identity(run, kind)
        if not public:
            return GENERIC_ERROR
        if not found.username:
            return INVALID_USER
        vector = self._given_out(public, found.username, found)
        if vector is None:
            return STALE_NONCE
        if found.param("auts"):
            return SYNC_REQUESTED
        if not vector.verify(found, run.msg.method, run.msg.body):
            return INVALID_PASSWORD
        try:
            fresh = vector.is_next_use(found.nc, run.msg.call_id, run.msg.cseq_number)
        except ValueError:
            return GENERIC_ERROR
        return AUTHORIZED if fresh else STALE_NONCE

    def _given_out(self, public: str, private: str, credentials: Credentials) -> Vector | None:
        """The vector that a challenge was made of, while it can be answered."""
        user = self._users.get((public, private)) or self._users.get((public, public.partition(":")[2]))
        algorithm = NAMES.get(credentials.algorithm.lower())
        if user is None or algorithm is None or not credentials.nonce:
            return None
        vector = user.given_out(credentials.nonce, algorithm)
        if vector is None or self.core.now() - vector.since >= self.pending_timeout:
            return None
        return vector

    def _credentials(self, run: Run, kind: int, realm: str) -> Credentials | int:
        """The first credentials for a realm, or the code of what is wrong."""
        for header in run.msg.all(kind):
            try:
                found = digest.parse_credentials(header.value)
            except ParseError as error:
                self.core.log.info("auth_aka: %s in credentials from %s", error.reason, run.msg.source.text)
                return GENERIC_ERROR
            if found.is_digest and found.realm.lower() == realm.lower():
                fields = (found.username, found.realm, found.uri, found.nonce, found.cnonce)
                return GENERIC_ERROR if max(map(len, fields)) > MAX_FIELD else found
        return NO_CREDENTIALS

    def _public_identity(self, run: Run, kind: int) -> str:
        """The IMPU: the URI of To (of From for a proxy) without its parameters; "" when it cannot be read."""
        try:
            uri = parse_uri((run.msg.to if kind == H_AUTHORIZATION else run.msg.from_).uri)
        except ParseError:
            return ""
        return f"{uri.scheme}:{uri.user}@{uri.host_text}" if uri.user else f"{uri.scheme}:{uri.host_text}"

    def _domain(self, run: Run, kind: int) -> str:
        try:
            return parse_uri((run.msg.from_ if kind == H_AUTHORIZATION else run.msg.to).uri).host_text
        except ParseError:
            return ""

    # --- vectors from scripts

    @script_function(routes=ALL)
    def aka_av_add(
        self,
        run: Run,
        public_identity: str,
        private_identity: str,
        authenticate: str,
        authorize: str,
        confidentiality_key: str,
        integrity_key: str,
        algorithms: Algorithms = None,
    ) -> int:
        """Store a vector, all in hexadecimal; `algorithms` are those it may be used for, any when left out.

        Returns -1 when it is malformed.
        """
        try:
            self.add(
                public_identity,
                private_identity,
                authenticate,
                authorize,
                confidentiality_key,
                integrity_key,
                algorithms or (),
            )
        except ValueError as error:
            self.core.log.error("auth_aka: aka_av_add: %s", error)
            return -1
        return 1

    @script_function(routes=ALL)
    def aka_av_drop(self, run: Run, public_identity: str, private_identity: str, authenticate: str) -> int:
        """Forget the vector of a nonce (base64, as in the challenge). Returns 1 also when there was none.

        Returns -1 when the user is not known.
        """
        known = (public_identity, private_identity) in self._users
        self._drop(public_identity, private_identity, authenticate)
        return 1 if known else -1

    @script_function(routes=ALL)
    def aka_av_drop_all(
        self,
        run: Run,
        public_identity: str,
        private_identity: str,
        count: Annotated[VarRef | None, WritableVar()] = None,
    ) -> int:
        """Forget all vectors of a user; their number goes into a variable."""
        dropped = self._drop(public_identity, private_identity)
        if count is not None:
            count.set(run, dropped)
        return 1

    @script_function(routes=ALL)
    def aka_av_fail(self, run: Run, public_identity: str, private_identity: str, count: int = 1) -> int:
        """Tell the challenges that wait that so many vectors will not come. Returns -1 when the user is not known."""
        return 1 if self.fail(public_identity, private_identity, count) else -1

    # --- and from management

    @mi_command(
        "auth_aka:av_add",
        aliases=("aka_av_add",),
        params=(
            (
                "public_identity",
                "private_identity",
                "authenticate",
                "authorize",
                "confidentiality-key",
                "integrity-key",
            ),
            (
                "public_identity",
                "private_identity",
                "authenticate",
                "authorize",
                "confidentiality-key",
                "integrity-key",
                "algorithms",
            ),
        ),
        types={
            "public_identity": "string",
            "private_identity": "string",
            "authenticate": "string",
            "authorize": "string",
            "confidentiality-key": "string",
            "integrity-key": "string",
            "algorithms": "string",
        },
    )
    def av_add(self, **given: str) -> Json:
        """Store a vector."""
        try:
            algorithms = algorithm_list(given["algorithms"]) if "algorithms" in given else ()
            self.add(
                given["public_identity"],
                given["private_identity"],
                given["authenticate"],
                given["authorize"],
                _key(given, "confidentiality-key"),
                _key(given, "integrity-key"),
                algorithms,
            )
        except ValueError as error:
            raise MiError(400, str(error)) from error
        return "OK"

    @mi_command(
        "auth_aka:av_drop",
        aliases=("aka_av_drop",),
        params=(("public_identity", "private_identity", "authenticate"),),
        types={"public_identity": "string", "private_identity": "string", "authenticate": "string"},
    )
    def av_drop(self, public_identity: str, private_identity: str, authenticate: str) -> Json:
        """Forget the vector of a nonce."""
        if not self._drop(public_identity, private_identity, authenticate):
            raise MiError(404, "AV not found")
        return "OK"

    @mi_command(
        "auth_aka:av_drop_all",
        aliases=("aka_av_drop_all",),
        params=(("public_identity", "private_identity"),),
        types={"public_identity": "string", "private_identity": "string"},
    )
    def av_drop_all(self, public_identity: str, private_identity: str) -> Json:
        """Forget all vectors of a user; answers with their number."""
        return self._drop(public_identity, private_identity)

    @mi_command(
        "auth_aka:av_fail",
        aliases=("aka_av_fail",),
        params=(("public_identity", "private_identity"), ("public_identity", "private_identity", "count")),
        types={"public_identity": "string", "private_identity": "string", "count": "int"},
    )
    def av_fail(self, public_identity: str, private_identity: str, count: int = 1) -> Json:
        """Tell the challenges that wait that vectors will not come."""
        if not self.fail(public_identity, private_identity, count):
            raise MiError(404, "User not found")
        return "OK"


def _key(given: dict[str, str], name: str) -> str:
    """A parameter whose name holds a dash, in either spelling."""
    return given[name] if name in given else given[name.replace("-", "_")]
