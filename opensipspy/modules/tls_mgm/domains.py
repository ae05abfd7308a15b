"""TLS domains: their parameters, the contexts made of them, and which of them a connection gets."""

from __future__ import annotations

import ipaddress
import os
import ssl
import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from opensipspy.module.tls import TlsDomain, TlsDomains
from opensipspy.modules.tls_mgm.certificates import Certificate, CertificatesMissing

ANY: Final = "*"
NO_NAME: Final = "none"
DEFAULT_METHOD: Final = "SSLv23"
CONFIG_DIR: Final = "/etc/opensips"
DEFAULT_CERTIFICATE: Final = CONFIG_DIR + "/tls/cert.pem"
DEFAULT_KEY: Final = CONFIG_DIR + "/tls/ckey.pem"
DEFAULT_CA_DIR: Final = "/etc/pki/CA/"
MOST_FILTERS: Final = 64
# Nobody can be asked for the password of a key.
MEMORY_FILE: Final = "opensipspy-tls"

VERSIONS: Final = {
    "tlsv1": ssl.TLSVersion.TLSv1,
    "tlsv1_1": ssl.TLSVersion.TLSv1_1,
    "tlsv1_2": ssl.TLSVersion.TLSv1_2,
    "tlsv1_3": ssl.TLSVersion.TLSv1_3,
}
NAMES: Final = {
    ssl.TLSVersion.TLSv1: "TLSv1",
    ssl.TLSVersion.TLSv1_1: "TLSv1_1",
    ssl.TLSVersion.TLSv1_2: "TLSv1_2",
    ssl.TLSVersion.TLSv1_3: "TLSv1_3",
}


class DomainError(ValueError):
    """A domain cannot be made as it is described."""


class Description:
    """What the operator says of one domain. Texts are paths, or what the files hold when `inline`."""

    __slots__ = (
        "addresses",
        "ca_dir",
        "ca_list",
        "certificate",
        "ciphers",
        "crl_check_all",
        "crl_dir",
        "dh_params",
        "ec_curve",
        "inline",
        "method",
        "name",
        "private_key",
        "require_cert",
        "server",
        "sip_domains",
        "verify_cert",
    )

    def __init__(self, name: str, *, server: bool, inline: bool = False) -> None:
        self.name = name
        self.server = server
        self.inline = inline
        self.addresses: list[str] = []
        self.sip_domains: list[str] = []
        self.method = DEFAULT_METHOD
        self.verify_cert = True
        self.require_cert = True
        self.certificate = ""
        self.private_key = ""
        self.ca_list = ""
        self.ca_dir = ""
        self.crl_dir = ""
        self.crl_check_all = False
        self.ciphers = ""
        self.dh_params = ""
        self.ec_curve = ""

    def method_text(self) -> str:
        """As the list shows it: one version, or the lowest and the highest."""
        low, high = versions(self.method)
        if low is None and high is None:
            return DEFAULT_METHOD
        shown = [NAMES[version] if version is not None else "" for version in (low, high)]
        return shown[0] if shown[0] == shown[1] else "-".join(shown)


class Domain(TlsDomain):
    """A domain with what it was made of."""

    __slots__ = ("description",)

    def __init__(self, description: Description) -> None:
        context, certificate = make_context(description)
        super().__init__(description.name, description.server, context, certificate)
        self.description = description


def split(value: str) -> list[str]:
    """The elements of a comma list."""
    found = [part.strip().strip('"') for part in value.split(",")]
    found = [part for part in found if part]
    if len(found) > MOST_FILTERS:
        raise DomainError(f"more than {MOST_FILTERS} values")
    return found


def addresses(value: str) -> list[str]:
    """The filters of `match_ip_address`: "*" or "address:port", with brackets or without. Raises DomainError."""
    found = []
    for text in split(value):
        if text == ANY:
            found.append(ANY)
            continue
        host, colon, port = text.rpartition(":")
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise DomainError(f"{text!r} is no address:port") from None
        if not colon or not port.isdigit() or not 0 < int(port) < 65536:
            raise DomainError(f"{text!r} is no address:port")
        found.append(f"{address}:{int(port)}")
    return found


def versions(method: str) -> tuple[ssl.TLSVersion | None, ssl.TLSVersion | None]:
    """Lowest and highest version of a `tls_method`; None for the library's own limit. Raises DomainError."""
    text = method.strip().lower()
    if text in ("", "sslv23", "tls", "tlsany"):
        return None, None
    low, dash, high = text.partition("-")
    limits = []
    for part in (low, high if dash else low):
        part = part.strip()
        if part and part not in VERSIONS:
            raise DomainError(f"tls_method {method!r} is not known")
        limits.append(VERSIONS.get(part))
    return limits[0], limits[1]


def make_context(description: Description) -> tuple[ssl.SSLContext, str]:
    """The context of a domain and its certificates as PEM text. Raises DomainError; no text of it holds a key."""
    server = description.server
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.options |= ssl.OP_NO_COMPRESSION
    # A peer could ask for handshakes without end.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if server:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    low, high = versions(description.method)
    what = "tls_method"
    try:
        with warnings.catch_warnings():
            # The operator asks for versions that are no longer recommended; it is his decision.
            warnings.simplefilter("ignore", DeprecationWarning)
            if low is not None:
                context.minimum_version = low
            elif "-" in description.method:
                context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            else:
                # RFC 8996; a Python that leaves it to the system may not say so by itself.
                context.minimum_version = ssl.TLSVersion.TLSv1_2
            if high is not None:
                context.maximum_version = high
        if description.ciphers:
            what = "ciphers_list"
            context.set_ciphers(description.ciphers)
        what = "certificate and private_key"
        certificate = _load_certificate(context, description)
        if description.dh_params:
            what = "dh_params"
            with _File(description.dh_params, description.inline) as path:
                context.load_dh_params(path)
        if description.ec_curve:
            what = "ec_curve"
            context.set_ecdh_curve(description.ec_curve)
        what = "ca_list"
        _load_authorities(context, description)
        what = "crl_dir"
        _load_revocations(context, description)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise DomainError(f"TLS domain {description.name}: {what}: {reason}") from None
    if description.verify_cert:
        optional = server and not description.require_cert
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
    else:
        context.verify_mode = ssl.CERT_NONE
    return context, certificate


def _load_certificate(context: ssl.SSLContext, description: Description) -> str:
    certificate, key = description.certificate, description.private_key
    if not certificate:
        # A client may have none; the default counts where it is there.
        if description.inline or not os.path.exists(DEFAULT_CERTIFICATE):
            if description.server:
                raise DomainError("a server needs them")
            return ""
        certificate, key = DEFAULT_CERTIFICATE, key or DEFAULT_KEY
    with _File(certificate, description.inline) as certificate_path:
        # Without a key of its own, the file of the certificate may hold it.
        with _File(key or certificate, description.inline) as key_path:
            context.load_cert_chain(certificate_path, key_path, password=lambda: "")
        with open(certificate_path, encoding="latin-1") as file:
            return _public_part(file.read())


def _public_part(text: str) -> str:
    """The certificates of a PEM text, without a key that may stand beside them."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    found = []
    at = text.find(begin)
    while at >= 0:
        stop = text.find(end, at)
        if stop < 0:
            break
        found.append(text[at : stop + len(end)] + "\n")
        at = text.find(begin, stop)
    return "".join(found)


def _load_authorities(context: ssl.SSLContext, description: Description) -> None:
    if description.ca_list:
        if description.inline:
            context.load_verify_locations(cadata=description.ca_list)
        else:
            context.load_verify_locations(cafile=description.ca_list)
    folder = description.ca_dir or (DEFAULT_CA_DIR if os.path.isdir(DEFAULT_CA_DIR) else "")
    if folder:
        if not os.path.isdir(folder):
            raise DomainError(f"ca_dir {folder} is no folder")
        context.load_verify_locations(capath=folder)


def _load_revocations(context: ssl.SSLContext, description: Description) -> None:
    if not description.crl_dir:
        return
    found = 0
    for name in sorted(os.listdir(description.crl_dir)):
        path = os.path.join(description.crl_dir, name)
        if not os.path.isfile(path):
            continue
        with open(path, encoding="latin-1") as file:
            is_list = "-----BEGIN X509 CRL-----" in file.read()
        if is_list:
            context.load_verify_locations(cafile=path)
            found += 1
    if not found:
        raise DomainError(f"no revocation list in {description.crl_dir}")
    if description.crl_check_all:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    else:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


class _File:
    """A path for what is a path already, or for a text: a file in memory that nobody else sees."""

    def __init__(self, value: str, inline: bool) -> None:
        self._value = value
        self._inline = inline
        self._fd = -1

    def __enter__(self) -> str:
        if not self._inline:
            return self._value
        self._fd = os.memfd_create(MEMORY_FILE, os.MFD_CLOEXEC)
        os.write(self._fd, self._value.encode("utf-8", "surrogateescape"))
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def rank(pattern: str) -> int:
    """The most specific filter first: a name, a pattern, anything."""
    if pattern == ANY:
        return 2
    return 1 if ANY in pattern else 0


class DomainStore(TlsDomains):
    """All domains, and the tables to choose from. `replace` changes them in one step."""

    def __init__(self) -> None:
        self.domains: list[Domain] = []
        self._servers: dict[str, list[tuple[str, Domain]]] = {}
        self._clients: dict[str, list[tuple[str, Domain]]] = {}

    def replace(self, domains: Sequence[Domain]) -> None:
        self.domains = list(domains)
        self._servers = _table(domain for domain in domains if domain.server)
        self._clients = _table(domain for domain in domains if not domain.server)

    def server_domain(self, address: str, port: int, name: str = "") -> Domain | None:
        return _choose(self._servers, address, port, name or NO_NAME)

    def client_domain(self, address: str, port: int, sip_domain: str = "", name: str = "") -> Domain | None:
        if name:
            return self.named(name)
        return _choose(self._clients, address, port, sip_domain or ANY)

    def named(self, name: str) -> Domain | None:
        """The client domain of that name."""
        return next((domain for domain in self.domains if not domain.server and domain.name == name), None)

    def names(self, certificate: bytes) -> tuple[str, str] | None:
        try:
            read = Certificate(certificate)
            return str(read.subject()), str(read.issuer())
        except (CertificatesMissing, ValueError):
            return None

    def client_context(self, name: str) -> ssl.SSLContext:
        found = self.named(name)
        if found is None:
            raise LookupError(f"no TLS client domain {name!r}")
        return found.context


def _table(domains: Iterable[Domain]) -> dict[str, list[tuple[str, Domain]]]:
    """Address filter -> (name filter, domain), the most specific name first, else in the order they were defined."""
    found: dict[str, list[tuple[str, Domain]]] = {}
    for domain in domains:
        description = domain.description
        for address in description.addresses or [ANY]:
            for name in description.sip_domains or [ANY]:
                found.setdefault(address, []).append((name.lower(), domain))
    for entries in found.values():
        entries.sort(key=lambda entry: rank(entry[0]))
    return found


def _choose(table: dict[str, list[tuple[str, Domain]]], address: str, port: int, name: str) -> Domain | None:
    """The domains of an address shut out those for any address."""
    entries = table.get(f"{address}:{port}") or table.get(ANY) or []
    name = name.lower()
    for pattern, domain in entries:
        if fnmatchcase(name, pattern):
            return domain
    return None
