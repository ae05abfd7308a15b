"""JSON Web Tokens (RFC 7519): checked with a key of the script, or with the secrets of a profile in the database.

The kind of the key decides which algorithms a token may be signed with, never the token alone: a public key verifies
RSA, ECDSA or EdDSA signatures, any other text HMAC. `none` is no algorithm here (RFC 8725 §3.1, §3.2).
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import Annotated, Any, Final

from opensipspy.db import Column, Condition, DbValue, Index, Table, auto_id
from opensipspy.module import Module, Param, StartError, WritableVar, script_function
from opensipspy.module.table_cache import cell_text, open_database, own_or_default_url
from opensipspy.module.table_query import TableQuery, parse_loads, script_value
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run, VarRef

PROFILES: Final = Table(
    "jwt_profiles",
    1,
    (auto_id(), Column("tag", "string", 128), Column("sip_username", "string", 128)),
    (Index("jwt_tag_idx", ("tag",), unique=True),),
)
SECRETS: Final = Table(
    "jwt_secrets",
    1,
    (
        auto_id(),
        Column("corresponding_tag", "string", 128),
        Column("secret", "text"),
        Column("start_ts", "int"),
        Column("end_ts", "int"),
    ),
)

LONGEST_TOKEN: Final = 16_384
LONGEST_KEY: Final = 16_384
LONGEST_TAG: Final = 128
MOST_SECRETS: Final = 64
KEPT_KEYS: Final = 256
LARGEST_MODULUS: Final = 2048
HMAC: Final = frozenset({"HS256", "HS384", "HS512"})
RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
EDWARDS: Final = frozenset({"Ed25519PublicKey", "Ed448PublicKey"})
PEM: Final = "-----BEGIN"

OutputAvp = Annotated[VarRef, WritableVar("avp")]


class Token:
    """A token in its parts; nothing of it is to be believed before `signature` has been checked."""

    __slots__ = ("algorithm", "claims", "header", "signature", "signed")

    def __init__(self, text: str) -> None:
        """Raises ValueError."""
        if len(text) > LONGEST_TOKEN or not text.isascii():
            raise ValueError("is too long or has other characters than a token")
        parts = text.split(".")
        if len(parts) != 3:
            raise ValueError("does not have three parts")
        self.header = _object(parts[0])
        self.claims = _object(parts[1])
        self.signature = base64url(parts[2])
        self.signed = f"{parts[0]}.{parts[1]}".encode("ascii")
        algorithm = self.header.get("alg")
        self.algorithm = algorithm if isinstance(algorithm, str) else ""
        if "crit" in self.header:
            # RFC 7515 §4.1.11: an extension that is not understood makes the token invalid.
            raise ValueError("asks for an extension")

    @property
    def text(self) -> str:
        """ "{header}.{payload}" as compact JSON with sorted names."""
        return f"{_compact(self.header)}.{_compact(self.claims)}"

    def is_timely(self, now: float) -> bool:
        """Whether `now` is within what the claims nbf and exp say (RFC 7519 §4.1.4, §4.1.5)."""
        for claim in ("exp", "nbf"):
            limit = self.claims.get(claim)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, int | float):
                return False
            if (now >= limit) == (claim == "exp"):
                return False
        return True


def base64url(text: str) -> bytes:
    """RFC 7515 §2: without padding and without any other character. Raises ValueError."""
    if not all(char.isascii() and (char.isalnum() or char in "-_") for char in text):
        raise ValueError("holds what is no base64url")
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except Base64Error as error:
        raise ValueError("holds what is no base64url") from error


def _object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(base64url(part).decode("utf-8"), parse_constant=_no_number)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("holds JSON that is no object")
    # Half a surrogate pair, which an escape can bring, is no text that the script could write anywhere; a number may
    # be too large to be one.
    _compact(value).encode("utf-8")
    return value


def _no_number(name: str) -> None:
    """RFC 8259 §6: neither NaN nor Infinity is a number; a time of that kind would never pass."""
    raise ValueError(f"holds {name}")


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class AuthJwt(Module):
    """Check JSON Web Tokens."""

    name = "auth_jwt"
    tables = (PROFILES, SECRETS)

    db_mode = Param(int, 0, "1 uses the database; 0 leaves only what the script has keys for.")
    db_url = Param(str, "mysql://opensipsro:opensipsro@localhost/opensips", "The database.")
    profiles_table = Param(str, "jwt_profiles", "Table of profiles.")
    secrets_table = Param(str, "jwt_secrets", "Table of the profiles' secrets.")
    tag_column = Param(str, "tag", "Column of a profile's tag.")
    username_column = Param(str, "sip_username", "Column of a profile's SIP user.")
    secret_tag_column = Param(str, "corresponding_tag", "Column of the tag that a secret belongs to.")
    secret_column = Param(str, "secret", "Column of the secret: a text for HMAC, or a public key as PEM.")
    start_ts_column = Param(str, "start_ts", "Column of the second since 1970 from which a secret counts.")
    end_ts_column = Param(str, "end_ts", "Column of the second since 1970 from which it no longer counts.")
    tag_claim = Param(str, "tag", "Claim that names the profile.")
    load_credentials = Param(str, "", "Columns of the profile to put into AVPs: $avp(name)=column;column...", func=True)

    def __init__(self, **params: Any) -> None:
        self._load: list[tuple[str, str]] = []
        self._keys: dict[str, tuple[frozenset[str], Any]] = {}
        self._algorithms: dict[str, Any] = {}
        self._errors: tuple[type[Exception], ...] = (ValueError,)
        self._profiles: TableQuery | None = None
        super().__init__(**params)

    def set_load_credentials(self, value: str) -> None:
        self._load = parse_loads(value)

    async def start(self) -> None:
        if importlib.util.find_spec("jwt") is None or importlib.util.find_spec("cryptography") is None:
            raise StartError("auth_jwt needs the Python package PyJWT: pip install 'opensipspy[jwt]'")
        algorithms = await asyncio.to_thread(importlib.import_module, "jwt.algorithms")
        self._serialization = importlib.import_module("cryptography.hazmat.primitives.serialization")
        self._x509 = importlib.import_module("cryptography.x509")
        self._rsa = importlib.import_module("cryptography.hazmat.primitives.asymmetric.rsa")
        exceptions = importlib.import_module("cryptography.exceptions")
        self._errors = (ValueError, TypeError, exceptions.UnsupportedAlgorithm)
        self._algorithms = {
            name: algorithm for name, algorithm in algorithms.get_default_algorithms().items() if name != "none"
        }
        if self.db_mode:
            database = open_database(self, own_or_default_url(self, self.db_url))
            self._profiles = TableQuery(database, PROFILES.version or 0)
            self._secrets = TableQuery(database, SECRETS.version or 0)

    # --- keys and signatures

    def _key(self, text: str) -> tuple[frozenset[str], Any]:
        """(the algorithms that a key is for, the key); raises ValueError."""
        known = self._keys.get(text)
        if known is None:
            known = self._read_key(text)
            if len(self._keys) >= KEPT_KEYS:
                del self._keys[next(iter(self._keys))]
            self._keys[text] = known
        return known

    def _read_key(self, text: str) -> tuple[frozenset[str], Any]:
        if len(text) > LONGEST_KEY:
            raise ValueError("the key is too long")
        data = text.strip().encode("utf-8", "surrogateescape")
        if PEM not in text:
            return HMAC, text.encode("utf-8", "surrogateescape")
        if "CERTIFICATE-----" in text:
            key = self._x509.load_pem_x509_certificate(data).public_key()
        else:
            key = self._serialization.load_pem_public_key(data)
        kind = type(key).__name__
        curve = getattr(getattr(key, "curve", None), "name", "")
        if curve in CURVES:
            return frozenset({CURVES[curve]}), key
        if kind in EDWARDS:
            return frozenset({"EdDSA"}), key
        if kind == "RSAPublicKey":
            return RSA, key
        raise ValueError(f"{kind} is no key that tokens are signed with")

    def _is_signed(self, token: Token, key_text: str) -> bool:
        """Whether the key made the token's signature with an algorithm that the key is for, and the token is timely."""
        try:
            allowed, key = self._key(key_text)
        except self._errors as error:
            # Only the kind of the error: its text may quote the key.
            self.core.log.error("auth_jwt: a key cannot be used: %s", type(error).__name__)
            return False
        algorithm = self._algorithms.get(token.algorithm)
        if algorithm is None or token.algorithm not in allowed:
            return False
        return bool(algorithm.verify(token.signed, key, token.signature)) and token.is_timely(self.core.time())

    def _token(self, text: str) -> Token | None:
        try:
            return Token(text.strip())
        except ValueError as error:
            self.core.log.info("auth_jwt: a token %s", error)
            return None

    # --- the script

    @script_function(routes=REQUEST)
    def jwt_script_authorize(self, run: Run, jwt_token: str, key: str, out_decoded_token: OutputAvp) -> int:
        """Decode a token into an AVP and check it with a key: a text for HMAC, or a public key or certificate as PEM.

        The AVP gets "{header}.{payload}" also of a token that is not valid. Returns 1 valid, -1 the signature is not
        the key's, or the time is not within nbf and exp, -2 no token.
        """
        token = self._token(jwt_token or "")
        if token is None:
            return -2
        out_decoded_token.set(run, token.text)
        return 1 if key and self._is_signed(token, key) else -1

    @script_function(routes=REQUEST)
    async def jwt_db_authorize(
        self, run: Run, jwt_token: str, out_decoded_token: OutputAvp, out_sip_username: OutputAvp
    ) -> int:
        """Check a token with the secrets that the database has at this time for the profile that its claim names.

        The AVPs get "{header}.{payload}" and the profile's SIP user when it is valid. Returns 1, or -1.
        """
        if self._profiles is None:
            self.core.log.error("auth_jwt: jwt_db_authorize() needs db_mode=1")
            return -1
        token = self._token(jwt_token or "")
        tag = token.claims.get(self.tag_claim) if token is not None else None
        if token is None or not isinstance(tag, str) or not tag or len(tag) > LONGEST_TAG or "\0" in tag:
            return -1
        columns = (self.username_column, *(column for _, column in self._load))
        profiles = await self._profiles.rows(self.profiles_table, columns, ((self.tag_column, "=", tag),), 1)
        if not profiles:
            return -1
        now = int(self.core.time())
        current: Sequence[Condition] = (
            (self.secret_tag_column, "=", tag),
            (self.start_ts_column, "<=", now),
            (self.end_ts_column, ">", now),
        )
        secrets = await self._secrets.rows(self.secrets_table, (self.secret_column,), current, MOST_SECRETS)
        for (secret,) in secrets or ():
            if self._fits(token, secret):
                out_decoded_token.set(run, token.text)
                user, *loaded = profiles[0]
                out_sip_username.set(run, script_value(user))
                for (avp, _), value in zip(self._load, loaded, strict=True):
                    if value is not None and value != "":
                        run.avps.setdefault(avp, []).append(script_value(value))
                return 1
        return -1

    def _fits(self, token: Token, secret: DbValue) -> bool:
        try:
            text = cell_text(secret, self.secret_column, most=LONGEST_KEY)
        except ValueError as error:
            self.core.log.error("auth_jwt: a row of table %s is skipped: %s", self.secrets_table, error)
            return False
        return bool(text) and self._is_signed(token, text)

    def _pem(self, key: Any) -> str:
        encoding, form = self._serialization.Encoding.PEM, self._serialization.PublicFormat.SubjectPublicKeyInfo
        return str(key.public_bytes(encoding, form).decode("ascii"))

    @script_function(routes=REQUEST)
    def extract_pub_key_from_cert(self, run: Run, certificate: str, out_public_key: OutputAvp) -> int:
        """Put the public key of a certificate (PEM) into an AVP, as PEM. Returns 1, or -1 for none."""
        if not certificate or len(certificate) > LONGEST_KEY:
            return -1
        try:
            key = self._x509.load_pem_x509_certificate(certificate.encode("utf-8", "surrogateescape")).public_key()
            out_public_key.set(run, self._pem(key))
        except self._errors as error:
            self.core.log.info("auth_jwt: a certificate cannot be read: %s", type(error).__name__)
            return -1
        return 1

    @script_function(routes=REQUEST)
    def extract_pub_key_from_exp_mod(self, run: Run, e: str, n: str, out_public_key: OutputAvp) -> int:
        """Put the RSA public key of a base64url exponent and modulus (RFC 7518 §6.3.1) into an AVP, as PEM.

        Returns 1, or -1 for what is no key.
        """
        try:
            exponent, modulus = base64url(e or ""), base64url(n or "")
            if len(modulus) > LARGEST_MODULUS or len(exponent) > 8:
                raise ValueError("is too long")
            numbers = self._rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
            out_public_key.set(run, self._pem(numbers.public_key()))
        except ValueError as error:
            self.core.log.info("auth_jwt: an RSA key %s", error)
            return -1
        return 1
