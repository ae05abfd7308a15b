"""Signed identities of callers (RFC 4474): a signature over parts of the request by the domain of From.

Certificates are not fetched: the verifier looks for them in a folder, under the name that the Identity-Info URI gives.
Both functions look at the request as it was received.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
import ssl
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from fnmatch import translate
from pathlib import Path
from typing import Any, Final

from opensipspy.module import Module, Param, StartError, script_function
from opensipspy.module.table_query import request_of
from opensipspy.script.kinds import BRANCH, LOCAL, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import H_DATE, Message, ParseError

AUTH_SECONDS: Final = 600
VERIFY_SECONDS: Final = 3600
LONGEST_NAME: Final = 200
LONGEST_IDENTITY: Final = 4096
LONGEST_HOST: Final = 255
LARGEST_FILE: Final = 1 << 20
LONGEST_CHAIN: Final = 8
ALGORITHM: Final = "rsa-sha1"
# What is known here; any other critical extension makes a certificate unusable (RFC 5280 §4.2).
BASIC_CONSTRAINTS: Final = "2.5.29.19"
KEY_USAGE: Final = "2.5.29.15"
KNOWN_CRITICAL: Final = frozenset({BASIC_CONSTRAINTS, KEY_USAGE, "2.5.29.37", "2.5.29.17"})

CERTIFICATE_UNAVAILABLE: Final = -436
CERTIFICATE_INVALID: Final = -437
SIGNATURE_INVALID: Final = -438
NO_IDENTITY: Final = -428
BAD_DATE: Final = -3
NOT_AUTHORITATIVE: Final = -2
ERROR: Final = -1


def digest_string(message: Message, date: str) -> bytes:
    """What is signed (RFC 4474 §9); raises ParseError."""
    contacts = [] if message.contact_star else message.contacts
    parts = (
        message.from_.uri,
        message.to.uri,
        message.call_id,
        f"{message.cseq_number} {message.cseq_method}",
        date,
        contacts[0].uri if contacts else "",
    )
    return "|".join(parts).encode("utf-8", "surrogateescape") + b"|" + message.body


def date_seconds(text: str) -> float:
    """Seconds since 1970 of a SIP-date (RFC 3261 §20.17); raises ValueError."""
    if not text.endswith(" GMT") or len(text) > 40:
        raise ValueError("is no SIP-date")
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, IndexError, OverflowError) as error:
        raise ValueError("is no SIP-date") from error


def file_name(uri: str) -> str:
    """The file's name for a URI: all but ASCII letters, digits, "_" and "." become "-". Raises ValueError."""
    if not uri or uri.startswith(".") or len(uri) > LONGEST_NAME:
        raise ValueError("the Identity-Info URI cannot be a file's name")
    return "".join([char if char.isascii() and (char.isalnum() or char in "_.") else "-" for char in uri])


def host_fits(host: str, pattern: str) -> bool:
    """Whether a name of a certificate is that of a host: `*` takes any part of one label (RFC 2818 §3.1)."""
    if "?" in pattern or "[" in pattern or len(pattern) > LONGEST_HOST or host.count(".") != pattern.count("."):
        return False
    return re.compile(translate(pattern.lower())).match(host.lower()) is not None


class Trust:
    """What the verifier trusts: root certificates and, unless None, revocation lists.

    errors: what the library raises for signatures and certificates that are no good.
    """

    def __init__(self, errors: tuple[type[Exception], ...], roots: Sequence[Any], lists: Sequence[Any] | None) -> None:
        self._errors = errors
        self._roots = list(roots)
        self._lists = lists

    def accepts(self, chain: Sequence[Any], now: datetime) -> bool:
        """Whether the first certificate leads to a trusted one, all of them valid now and none of them revoked."""
        try:
            return self._leads(chain[0], list(chain[1:]), now, 0)
        except self._errors:
            return False

    def _leads(self, certificate: Any, others: Sequence[Any], now: datetime, depth: int) -> bool:
        if depth > LONGEST_CHAIN or not self._usable(certificate, now, depth):
            return False
        if certificate in self._roots:
            return True
        for issuer in [*self._roots, *others]:
            if issuer == certificate or not self._issued(certificate, issuer, depth):
                continue
            if self._lists is not None and not self._not_revoked(certificate, issuer, now):
                continue
            rest = [other for other in others if other is not issuer]
            if self._leads(issuer, rest, now, depth + 1):
                return True
        return False

    def _usable(self, certificate: Any, now: datetime, depth: int) -> bool:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return False
        for extension in certificate.extensions:
            oid = extension.oid.dotted_string
            if extension.critical and oid not in KNOWN_CRITICAL:
                return False
            if depth and oid == KEY_USAGE and not extension.value.key_cert_sign:
                return False
        return True

    def _issued(self, certificate: Any, issuer: Any, depth: int) -> bool:
        if certificate.issuer != issuer.subject:
            return False
        limits = [e.value for e in issuer.extensions if e.oid.dotted_string == BASIC_CONSTRAINTS]
        if not limits or not limits[0].ca or (limits[0].path_length is not None and depth > limits[0].path_length):
            return False
        try:
            certificate.verify_directly_issued_by(issuer)
        except self._errors:
            return False
        return True

    def _not_revoked(self, certificate: Any, issuer: Any, now: datetime) -> bool:
        """As OpenSSL's CRL check: without a current list of the issuer nothing of it is accepted."""
        for one in self._lists or ():
            if one.issuer != issuer.subject or not one.is_signature_valid(issuer.public_key()):
                continue
            end = one.next_update_utc
            if one.last_update_utc <= now and (end is None or now <= end):
                return one.get_revoked_certificate_by_serial_number(certificate.serial_number) is None
        return False


class Identity(Module):
    """Sign the identity of callers, and verify signatures of other domains (RFC 4474)."""

    name = "identity"

    privKey = Param(str, None, "File of the private RSA key that authservice() signs with (PEM).")
    authCert = Param(str, None, "File of the certificate that belongs to privKey (PEM).")
    certUri = Param(str, None, "URI where others get that certificate; it stands in Identity-Info.")
    verCert = Param(str, None, "Folder of the certificates that verifier() may use (PEM, chains with the end first).")
    caList = Param(str, None, "File of trusted root certificates (PEM); those of the system when not set.")
    crlList = Param(str, None, "File of certificate revocation lists (PEM).")
    useCrls = Param(int, 0, "1: certificates have to be on no list of crlList, and there has to be one.")

    def __init__(self, **params: Any) -> None:
        self._key: Any = None
        self._certificate: Any = None
        self._trust: Trust | None = None
        self._errors: tuple[type[Exception], ...] = (ValueError, TypeError)
        super().__init__(**params)

    async def start(self) -> None:
        if importlib.util.find_spec("cryptography") is None:
            raise StartError("identity needs the Python package cryptography: pip install 'opensipspy[identity]'")
        signing = bool(self.privKey and self.authCert and self.certUri)
        if not signing and not self.verCert:
            raise StartError("identity needs privKey, authCert and certUri to sign, or verCert to verify")
        if self.useCrls and not self.crlList:
            raise StartError("identity: useCrls=1 needs crlList")
        await asyncio.to_thread(self._load, signing)
        if self._certificate is not None and not self._within(self._certificate, self.core.time()):
            raise StartError(f"identity: the certificate {self.authCert} is not valid now")

    def _load(self, signing: bool) -> None:
        self._x509 = importlib.import_module("cryptography.x509")
        self._hashes = importlib.import_module("cryptography.hazmat.primitives.hashes")
        self._padding = importlib.import_module("cryptography.hazmat.primitives.asymmetric.padding")
        self._rsa = importlib.import_module("cryptography.hazmat.primitives.asymmetric.rsa")
        serialization = importlib.import_module("cryptography.hazmat.primitives.serialization")
        exceptions = importlib.import_module("cryptography.exceptions")
        self._errors = (ValueError, TypeError, exceptions.UnsupportedAlgorithm, exceptions.InvalidSignature)
        name = ""
        try:
            if signing:
                name = self.privKey or ""
                self._key = serialization.load_pem_private_key(_read(name), None)
                if not isinstance(self._key, self._rsa.RSAPrivateKey):
                    raise ValueError("is no RSA key")
                name = self.authCert or ""
                self._certificate = self._x509.load_pem_x509_certificate(_read(name))
                if self._certificate.public_key().public_numbers() != self._key.public_key().public_numbers():
                    raise ValueError("does not belong to privKey")
            if self.verCert:
                name = self.verCert
                if not Path(name).is_dir():
                    raise ValueError("is no folder")
                name = self.caList or ssl.get_default_verify_paths().cafile or ""
                roots = self._x509.load_pem_x509_certificates(_read(name))
                lists = None
                if self.useCrls:
                    name = self.crlList or ""
                    lists = [self._x509.load_pem_x509_crl(block) for block in _blocks(_read(name), "X509 CRL")]
                self._trust = Trust(self._errors, roots, lists)
        except OSError as error:
            raise StartError(f"identity: {name}: {error.strerror}") from error
        except self._errors as error:
            # The library's words, which never hold the key itself.
            raise StartError(f"identity: {name}: {error or type(error).__name__}") from error

    @staticmethod
    def _within(certificate: Any, seconds: float) -> bool:
        moment = datetime.fromtimestamp(seconds, UTC)
        return bool(certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc)

    @script_function(routes=REQUEST | BRANCH | LOCAL)
    def authservice(self, run: Run) -> int:
        """Add Identity and Identity-Info, and Date where it is missing (RFC 4474 §5).

        Returns 1, -1 an error, -2 Date is ten minutes or more from now, -3 Date is not within the certificate's life.
        """
        if self._key is None:
            self.core.log.error("identity: authservice() needs privKey, authCert and certUri")
            return ERROR
        message = request_of(run)
        now = self.core.time()
        header = message.first(H_DATE)
        added = ""
        try:
            if header is None:
                date, seconds = formatdate(int(now), usegmt=True), float(int(now))
                added = f"Date: {date}\r\n"
            else:
                date = header.value
                seconds = date_seconds(date)
            if abs(now - seconds) >= AUTH_SECONDS:
                return NOT_AUTHORITATIVE
            if not self._within(self._certificate, seconds):
                return BAD_DATE
            text = digest_string(message, date)
        except (ParseError, ValueError) as error:
            self.core.log.error("identity: the request is not signed: %s", error)
            return ERROR
        # SHA-1 is what RFC 4474 §9 defines; its successor RFC 8224 is another module's.
        signature = self._key.sign(text, self._padding.PKCS1v15(), self._hashes.SHA1())
        run.edits.append(
            f'{added}Identity: "{b64encode(signature).decode()}"\r\nIdentity-Info: <{self.certUri}>;alg={ALGORITHM}\r\n'
        )
        return 1

    @script_function(routes=REQUEST)
    async def verifier(self, run: Run) -> int:
        """Verify the Identity header (RFC 4474 §6).

        Returns 1, -428 there is none, -436 the certificate is not there, -437 it cannot be validated, -2 it is not for
        the domain of From, -438 the signature is not the message's, -3 Date is wrong, -1 an error.
        """
        if self._trust is None:
            self.core.log.error("identity: verifier() needs verCert")
            return ERROR
        message = run.msg
        identity = message.named("Identity") or message.named("y")
        info = message.named("Identity-Info") or message.named("n")
        if not identity:
            return NO_IDENTITY
        try:
            if len(identity[0].value) > LONGEST_IDENTITY:
                raise ValueError("the signature is too long")
            host = message.from_.parsed_uri().host
        except (ParseError, ValueError) as error:
            self.core.log.info("identity: %s", error)
            return ERROR
        chain = await asyncio.to_thread(self._chain, info[0].value if info else "")
        if not chain:
            return CERTIFICATE_UNAVAILABLE
        now = self.core.time()
        if not self._trust.accepts(chain, datetime.fromtimestamp(now, UTC)):
            return CERTIFICATE_INVALID
        if not self._is_for(chain[0], host):
            return NOT_AUTHORITATIVE
        header = message.first(H_DATE)
        date = header.value if header is not None else ""
        if not self._is_signed(message, date, identity[0].value, chain[0]):
            return SIGNATURE_INVALID
        try:
            seconds = date_seconds(date)
        except ValueError:
            return BAD_DATE
        return 1 if abs(now - seconds) <= VERIFY_SECONDS and self._within(chain[0], seconds) else BAD_DATE

    def _chain(self, info: str) -> list[Any]:
        """The certificates for an Identity-Info value, the end first; [] when there are none."""
        uri, closed, params = info.strip().removeprefix("<").partition(">")
        named = re.search(r";\s*alg\s*=\s*([^;\s]+)", params, re.IGNORECASE)
        if not closed or not info.strip().startswith("<") or (named and named[1].lower() != ALGORITHM):
            return []
        try:
            found: list[Any] = self._x509.load_pem_x509_certificates(
                _read(str(Path(self.verCert or "") / file_name(uri)))
            )
        except OSError as error:
            self.core.log.info("identity: no certificate for %.100s: %s", uri, error.strerror)
            return []
        except self._errors as error:
            self.core.log.info("identity: no certificate for %.100s: %s", uri, error)
            return []
        return found[:LONGEST_CHAIN]

    def _is_for(self, certificate: Any, host: str) -> bool:
        """Whether the certificate names the host: its DNS names, or its common name when it has none."""
        try:
            names = certificate.extensions.get_extension_for_class(self._x509.SubjectAlternativeName).value
            dns = names.get_values_for_type(self._x509.DNSName)
        except self._x509.ExtensionNotFound:
            dns = []
        except self._errors:
            return False
        if not dns:
            dns = [a.value for a in certificate.subject.get_attributes_for_oid(self._x509.NameOID.COMMON_NAME)]
        return any(host_fits(host, name) for name in dns)

    def _is_signed(self, message: Message, date: str, identity: str, certificate: Any) -> bool:
        try:
            # OpenSIPS ends its signatures with a NUL.
            signature = b64decode(identity.strip().strip('"').rstrip("\0 \t\r\n"), validate=True)
            key = certificate.public_key()
            if not isinstance(key, self._rsa.RSAPublicKey):
                return False
            key.verify(signature, digest_string(message, date), self._padding.PKCS1v15(), self._hashes.SHA1())
        except self._errors:  # ParseError and what b64decode raises are ValueErrors
            return False
        return True


def _read(name: str) -> bytes:
    with Path(name).open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"has more than {LARGEST_FILE} octets")
    return data


def _blocks(data: bytes, kind: str) -> list[bytes]:
    """The PEM blocks of one kind."""
    mark = kind.encode()
    return re.findall(b"-----BEGIN " + mark + b"-----.*?-----END " + mark + b"-----", data, re.DOTALL)
