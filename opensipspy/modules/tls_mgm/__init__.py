"""tls_mgm: TLS domains (certificates, authorities, ciphers and whom they are for), and what is known of a connection.

A server domain serves connections that peers open, chosen by the address they came to and the name they ask for (SNI);
a client domain serves connections that we open, chosen by the address they go to, or by what the script put into the
variables that `client_sip_domain_avp` and `client_tls_domain_avp` name. Domains are defined in the script and, with
`db_url`, in the table tls_mgm, where the columns hold what the files of a domain of the script would hold (type 1 is
a client domain, 2 a server domain). A filter for the exact address shuts out those for any address, and the most
specific name wins.

Both `tls_openssl` and `tls_wolfssl` are Python's own `ssl` module here. SSLv23, the default method, offers TLS 1.2 and
1.3; older versions have to be asked for by name, and need ciphers of a lower security level as well. The ciphers of TLS
1.3 are not chosen by `ciphers_list`. With `verify_cert` the peer's chain is checked against the authorities of the
domain and the connection is refused when it does not pass; the names in the certificate are for the script to judge
($tls_peer_subject_cn, $tls_peer_san_hostname). `tls_mgm:reload` reads the table and all files again: connections that
are open keep what they began with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from opensipspy.db import Column, Database, DatabaseError, DbValue, Table, as_int, as_text, auto_id
from opensipspy.db import Index as TableIndex
from opensipspy.module import MiError, Module, Param, ParamError, StartError, mi_command, script_function, variable
from opensipspy.module.tls import TlsDomains, TlsSession
from opensipspy.modules.tls_mgm.certificates import (
    COMMON_NAME,
    COUNTRY,
    LOCALITY,
    ORGANIZATION,
    SERIAL_NUMBER,
    STATE,
    UNIT,
    Certificate,
    CertificatesMissing,
)
from opensipspy.modules.tls_mgm.domains import (
    Description,
    Domain,
    DomainError,
    DomainStore,
    addresses,
    split,
    versions,
)
from opensipspy.script.declare import Index
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run, Value

LOG: Final = logging.getLogger(__name__)

TLS_TABLE: Final = Table(
    "tls_mgm",
    3,
    (
        auto_id(),
        Column("domain", "string", 64),
        Column("match_ip_address", "string", 255, null=True, default=None),
        Column("match_sip_domain", "string", 255, null=True, default=None),
        Column("type", "int", 1, default="1"),
        Column("method", "string", 16, null=True, default="SSLv23"),
        Column("verify_cert", "int", 1, null=True, default="1"),
        Column("require_cert", "int", 1, null=True, default="1"),
        Column("certificate", "binary", null=True),
        Column("private_key", "binary", null=True),
        Column("crl_check_all", "int", 1, null=True, default="0"),
        Column("crl_dir", "string", 255, null=True, default=None),
        Column("ca_list", "binary", null=True, default=None),
        Column("ca_dir", "string", 255, null=True, default=None),
        Column("cipher_list", "string", 255, null=True, default=None),
        Column("dh_params", "binary", null=True, default=None),
        Column("ec_curve", "string", 255, null=True, default=None),
    ),
    (TableIndex("domain_type_idx", ("domain", "type"), unique=True),),
)

CLIENT: Final = 1
SERVER: Final = 2
LIBRARIES: Final = ("openssl", "wolfssl")
MOST_DOMAINS: Final = 4096

Read = Callable[[Certificate], Value]


class TlsMgm(Module):
    """Keep the TLS domains: certificates and parameters for connections, and what scripts may know of them."""

    name = "tls_mgm"
    wants = ("tls_openssl", "tls_wolfssl")
    tables = (TLS_TABLE,)

    ca_dir = Param(str, "/etc/pki/CA/", "[domain]folder of trusted authorities, in OpenSSL's hashed form.", func=True)
    ca_dir_col = Param(str, "ca_dir", "Column of the folder of authorities.")
    ca_list = Param(str, "", "[domain]file of trusted authorities, one after the other.", func=True)
    ca_list_col = Param(str, "ca_list", "Column of the authorities.")
    certificate = Param(str, "CFG_DIR/tls/cert.pem", "[domain]file of our certificate and its chain.", func=True)
    certificate_col = Param(str, "certificate", "Column of the certificate.")
    ciphers_list = Param(str, None, "[domain]OpenSSL's list of ciphers up to TLS 1.2.", func=True)
    ciphers_list_col = Param(str, "cipher_list", "Column of the ciphers.")
    client_domain = Param(str, None, "Defines a domain for connections that we open.", func=True)
    client_sip_domain_avp = Param(
        str, None, "AVP ($avp or $bavp) with the SIP domain to choose the client domain by; it is sent as SNI too."
    )
    client_tls_domain_avp = Param(str, None, "AVP ($avp or $bavp) with the name of the client domain to use.")
    crl_check_all = Param(str, None, "[domain]1 checks the revocation of the whole chain.", func=True)
    crl_check_all_col = Param(str, "crl_check_all", "Column of the same.")
    crl_dir = Param(str, None, "[domain]folder of revocation lists.", func=True)
    crl_dir_col = Param(str, "crl_dir", "Column of the folder of revocation lists.")
    db_table = Param(str, "tls_mgm", "The table of domains.")
    db_url = Param(str, None, "Database with more domains; none when not set.")
    dh_params = Param(str, None, "[domain]file of Diffie-Hellman parameters.", func=True)
    dh_params_col = Param(str, "dh_params", "Column of the Diffie-Hellman parameters.")
    domain_col = Param(str, "domain", "Column of the domain's name.")
    ec_curve = Param(str, None, "[domain]elliptic curve of key exchanges.", func=True)
    ec_curve_col = Param(str, "ec_curve", "Column of the elliptic curve.")
    match_ip_address = Param(
        str, "*", "[domain]address:port, ... that the domain is for: ours of a server domain, else theirs.", func=True
    )
    match_ip_address_col = Param(str, "match_ip_address", "Column of the addresses.")
    match_sip_domain = Param(
        str, "\\*", "[domain]name, ... that the domain is for; * for any, none for clients without SNI.", func=True
    )
    match_sip_domain_col = Param(str, "match_sip_domain", "Column of the names.")
    private_key = Param(str, "CFG_DIR/tls/ckey.pem", "[domain]file of the certificate's private key.", func=True)
    private_key_col = Param(str, "private_key", "Column of the private key.")
    require_cert = Param(str, "1", "[domain]1: a client must send a certificate, if it is verified.", func=True)
    require_cert_col = Param(str, "require_cert", "Column of the same.")
    server_domain = Param(str, None, "Defines a domain for connections that peers open.", func=True)
    tls_library = Param(str, "auto", "auto, none, openssl or wolfssl: the module that has to be loaded.")
    tls_method = Param(str, "SSLv23", "[domain]TLSv1, TLSv1_2, TLSv1_3, SSLv23 or a range low-high.", func=True)
    tls_method_col = Param(str, "method", "Column of the method.")
    verify_cert = Param(str, "1", "[domain]1: the peer's certificate is checked.", func=True)
    verify_cert_col = Param(str, "verify_cert", "Column of the same.")

    def __init__(self, **params: Any) -> None:
        self.store = DomainStore()
        self._described: dict[tuple[str, bool], Description] = {}
        self._database: Database | None = None
        self._told_missing = False
        super().__init__(**params)

    def api(self) -> TlsDomains:
        return self.store

    # -- parameters of domains

    def _define(self, param: str, name: str, *, server: bool) -> None:
        name = name.strip()
        if not name:
            raise ParamError(self.name, param, "a domain needs a name")
        if any(known == name for known, _ in self._described):
            raise ParamError(self.name, param, f"domain {name} is defined already")
        self._described[(name, server)] = Description(name, server=server)

    def set_server_domain(self, value: str) -> None:
        self._define("server_domain", value, server=True)

    def set_client_domain(self, value: str) -> None:
        self._define("client_domain", value, server=False)

    def _set(self, param: str, value: str, take: Callable[[Description, str], None]) -> None:
        """One "[domain]value"."""
        text = value.strip()
        name, bracket, rest = text.removeprefix("[").partition("]")
        rest = rest.strip()
        if not text.startswith("[") or not bracket or not name or not rest:
            raise ParamError(self.name, param, f"{text!r} is no [domain]value")
        found = self._described.get((name, True)) or self._described.get((name, False))
        if found is None:
            raise ParamError(self.name, param, f"domain {name} is not defined", "server_domain or client_domain first")
        try:
            take(found, rest)
        except DomainError as error:
            raise ParamError(self.name, param, str(error)) from error

    def set_match_ip_address(self, value: str) -> None:
        self._set("match_ip_address", value, lambda d, v: setattr(d, "addresses", addresses(v)))

    def set_match_sip_domain(self, value: str) -> None:
        self._set("match_sip_domain", value, lambda d, v: setattr(d, "sip_domains", split(v)))

    def set_tls_method(self, value: str) -> None:
        def take(description: Description, text: str) -> None:
            versions(text)
            description.method = text

        self._set("tls_method", value, take)

    def set_verify_cert(self, value: str) -> None:
        self._set("verify_cert", value, lambda d, v: setattr(d, "verify_cert", number(v)))

    def set_require_cert(self, value: str) -> None:
        self._set("require_cert", value, lambda d, v: setattr(d, "require_cert", number(v)))

    def set_crl_check_all(self, value: str) -> None:
        self._set("crl_check_all", value, lambda d, v: setattr(d, "crl_check_all", number(v)))

    def set_certificate(self, value: str) -> None:
        self._set("certificate", value, lambda d, v: setattr(d, "certificate", v))

    def set_private_key(self, value: str) -> None:
        self._set("private_key", value, lambda d, v: setattr(d, "private_key", v))

    def set_ca_list(self, value: str) -> None:
        self._set("ca_list", value, lambda d, v: setattr(d, "ca_list", v))

    def set_ca_dir(self, value: str) -> None:
        self._set("ca_dir", value, lambda d, v: setattr(d, "ca_dir", v))

    def set_crl_dir(self, value: str) -> None:
        self._set("crl_dir", value, lambda d, v: setattr(d, "crl_dir", v))

    def set_ciphers_list(self, value: str) -> None:
        self._set("ciphers_list", value, lambda d, v: setattr(d, "ciphers", v))

    def set_dh_params(self, value: str) -> None:
        self._set("dh_params", value, lambda d, v: setattr(d, "dh_params", v))

    def set_ec_curve(self, value: str) -> None:
        self._set("ec_curve", value, lambda d, v: setattr(d, "ec_curve", v))

    # -- life

    async def start(self) -> None:
        self._check_library()
        if self.db_url:
            try:
                self._database = self.core.database(self.db_url)
            except DatabaseError as error:
                raise ParamError(self.name, "db_url", str(error)) from error
        try:
            self.store.replace(await self._load())
        except (DomainError, DatabaseError) as error:
            raise StartError(str(error)) from error

    def _check_library(self) -> None:
        wanted = self.tls_library.lower()
        if wanted not in ("auto", "none", *LIBRARIES):
            raise ParamError(self.name, "tls_library", "is auto, none, openssl or wolfssl")
        loaded = [name for name in LIBRARIES if self.core.module(f"tls_{name}") is not None]
        if wanted == "auto" and len(loaded) != 1:
            which = "both are" if loaded else "none is"
            raise StartError(f"tls_mgm needs one of the modules tls_openssl and tls_wolfssl, and {which} loaded")
        if wanted in LIBRARIES and wanted not in loaded:
            raise StartError(f"tls_mgm: tls_library is {wanted}, but the module tls_{wanted} is not loaded")

    async def _load(self) -> list[Domain]:
        """All domains anew. Raises DomainError, DatabaseError, and then nothing has changed."""
        descriptions = list(self._described.values())
        names = {description.name for description in descriptions}
        if self._database is not None:
            for description in await self._read_table(self._database):
                if description.name in names and (description.name, description.server) in self._described:
                    raise DomainError(f"TLS domain {description.name} of the table is defined in the script too")
                descriptions.append(description)
        if len(descriptions) > MOST_DOMAINS:
            raise DomainError(f"more than {MOST_DOMAINS} TLS domains")
        return [Domain(description) for description in descriptions]

    async def _read_table(self, database: Database) -> list[Description]:
        columns = (
            self.domain_col,
            "type",
            self.match_ip_address_col,
            self.match_sip_domain_col,
            self.tls_method_col,
            self.verify_cert_col,
            self.require_cert_col,
            self.certificate_col,
            self.private_key_col,
            self.crl_check_all_col,
            self.crl_dir_col,
            self.ca_list_col,
            self.ca_dir_col,
            self.ciphers_list_col,
            self.dh_params_col,
            self.ec_curve_col,
        )
        return [describe_row(row) for row in await database.select(self.db_table, columns)]

    # -- management

    @mi_command("tls_mgm:reload", aliases=("tls_reload",))
    async def reload_domains(self) -> str:
        """Read the table and the files of all domains again. When one cannot be made, all stay as they are."""
        try:
            domains = await self._load()
        except (DomainError, DatabaseError) as error:
            raise MiError(500, "Failed to reload", str(error)) from error
        self.store.replace(domains)
        return "OK"

    @mi_command("tls_mgm:list", aliases=("tls_list",))
    def list_domains(self) -> dict[str, Any]:
        """All domains with their parameters; no private key and nothing of one."""
        ordered = sorted(self.store.domains, key=lambda domain: domain.server)
        return {"Domains": [shown_domain(domain) for domain in ordered]}

    # -- functions

    @script_function(routes=REQUEST)
    def is_peer_verified(self, run: Run) -> int:
        """True when the request came over TLS and the peer's certificate was verified."""
        session = self._session(run)
        return 1 if session is not None and session.verified else -1

    # -- variables: the connection that the message came over

    def _session(self, run: Run) -> TlsSession | None:
        return self.core.tls_session(run.msg.source)

    def _peer(self, run: Run, read: Read) -> Value:
        session = self._session(run)
        return self._read(session.peer_certificate, read) if session is not None else None

    def _my(self, run: Run, read: Read) -> Value:
        session = self._session(run)
        return self._read(session.domain.certificate.encode("latin-1"), read) if session is not None else None

    def _read(self, data: bytes, read: Read) -> Value:
        if not data:
            return None
        try:
            return read(Certificate(data))
        except CertificatesMissing as error:
            if not self._told_missing:
                self._told_missing = True
                LOG.error("%s", error)
        except ValueError as error:
            LOG.info("a certificate that cannot be read: %s", error)
        return None

    @variable("$tls_version")
    def version(self, run: Run, name: object, index: Index) -> Value:
        """Version of TLS."""
        session = self._session(run)
        return session.version or None if session is not None else None

    @variable("$tls_description")
    def description(self, run: Run, name: object, index: Index) -> Value:
        """The cipher in a few words."""
        session = self._session(run)
        if session is None:
            return None
        cipher, bits = session.cipher
        return f"{cipher} {session.version} Enc({bits})"

    @variable("$tls_cipher_info")
    def cipher_info(self, run: Run, name: object, index: Index) -> Value:
        """Name of the cipher."""
        session = self._session(run)
        return session.cipher[0] or None if session is not None else None

    @variable("$tls_cipher_bits")
    def cipher_bits(self, run: Run, name: object, index: Index) -> Value:
        """Secret bits of the cipher."""
        session = self._session(run)
        return session.cipher[1] if session is not None else None

    @variable("$tls_peer_verified")
    def peer_verified(self, run: Run, name: object, index: Index) -> Value:
        """1 when the peer's certificate was verified, else 0."""
        session = self._session(run)
        return int(session.verified) if session is not None else None

    @variable("$tls_peer_revoked")
    def peer_revoked(self, run: Run, name: object, index: Index) -> Value:
        """0: with revocation lists, a revoked certificate ends the handshake; without, nothing is known."""
        return 0 if self._session(run) is not None else None

    @variable("$tls_peer_expired")
    def peer_expired(self, run: Run, name: object, index: Index) -> Value:
        """1 when the peer's certificate has expired, else 0; a verified one had not at the handshake."""
        session = self._session(run)
        if session is None:
            return None
        return self._read(session.peer_certificate, lambda c: int(c.expired(self.core.time()))) or 0

    @variable("$tls_peer_selfsigned")
    def peer_selfsigned(self, run: Run, name: object, index: Index) -> Value:
        """1 when the peer's certificate is its own issuer, else 0."""
        session = self._session(run)
        if session is None:
            return None
        return self._read(session.peer_certificate, lambda c: int(c.self_signed())) or 0

    @variable("$tls_peer_version")
    def peer_version(self, run: Run, name: object, index: Index) -> Value:
        """Version of the peer's certificate, counted from 0."""
        return self._peer(run, Certificate.version)

    @variable("$tls_peer_serial")
    def peer_serial(self, run: Run, name: object, index: Index) -> Value:
        """Serial number of the peer's certificate."""
        return self._peer(run, Certificate.serial)

    @variable("$tls_peer_subject")
    def peer_subject(self, run: Run, name: object, index: Index) -> Value:
        """Subject of the peer's certificate in one line."""
        return self._peer(run, Certificate.subject)

    @variable("$tls_peer_issuer")
    def peer_issuer(self, run: Run, name: object, index: Index) -> Value:
        """Issuer of the peer's certificate in one line."""
        return self._peer(run, Certificate.issuer)

    @variable("$tls_peer_subject_cn")
    def peer_subject_cn(self, run: Run, name: object, index: Index) -> Value:
        """The common name in the subject of the peer's certificate."""
        return self._peer(run, lambda c: c.subject_part(COMMON_NAME))

    @variable("$tls_peer_issuer_cn")
    def peer_issuer_cn(self, run: Run, name: object, index: Index) -> Value:
        """The common name in the issuer of the peer's certificate."""
        return self._peer(run, lambda c: c.issuer_part(COMMON_NAME))

    @variable("$tls_peer_subject_locality")
    def peer_subject_locality(self, run: Run, name: object, index: Index) -> Value:
        """The locality in the subject of the peer's certificate."""
        return self._peer(run, lambda c: c.subject_part(LOCALITY))

    @variable("$tls_peer_issuer_locality")
    def peer_issuer_locality(self, run: Run, name: object, index: Index) -> Value:
        """The locality in the issuer of the peer's certificate."""
        return self._peer(run, lambda c: c.issuer_part(LOCALITY))

    @variable("$tls_peer_subject_country")
    def peer_subject_country(self, run: Run, name: object, index: Index) -> Value:
        """The country in the subject of the peer's certificate."""
        return self._peer(run, lambda c: c.subject_part(COUNTRY))

    @variable("$tls_peer_issuer_country")
    def peer_issuer_country(self, run: Run, name: object, index: Index) -> Value:
        """The country in the issuer of the peer's certificate."""
        return self._peer(run, lambda c: c.issuer_part(COUNTRY))

    @variable("$tls_peer_subject_state")
    def peer_subject_state(self, run: Run, name: object, index: Index) -> Value:
        """The state or province in the subject of the peer's certificate."""
        return self._peer(run, lambda c: c.subject_part(STATE))

    @variable("$tls_peer_issuer_state")
    def peer_issuer_state(self, run: Run, name: object, index: Index) -> Value:
        """The state or province in the issuer of the peer's certificate."""
        return self._peer(run, lambda c: c.issuer_part(STATE))

    @variable("$tls_peer_subject_organization")
    def peer_subject_organization(self, run: Run, name: object, index: Index) -> Value:
        """The organization in the subject of the peer's certificate."""
        return self._peer(run, lambda c: c.subject_part(ORGANIZATION))

    @variable("$tls_peer_issuer_organization")
    def peer_issuer_organization(self, run: Run, name: object, index: Index) -> Value:
        """The organization in the issuer of the peer's certificate."""
        return self._peer(run, lambda c: c.issuer_part(ORGANIZATION))

    @variable("$tls_peer_subject_unit")
    def peer_subject_unit(self, run: Run, name: object, index: Index) -> Value:
        """The organizational unit in the subject of the peer's certificate."""
        return self._peer(run, lambda c: c.subject_part(UNIT))

    @variable("$tls_peer_issuer_unit")
    def peer_issuer_unit(self, run: Run, name: object, index: Index) -> Value:
        """The organizational unit in the issuer of the peer's certificate."""
        return self._peer(run, lambda c: c.issuer_part(UNIT))

    @variable("$tls_peer_subject_serial")
    def peer_subject_serial(self, run: Run, name: object, index: Index) -> Value:
        """The serial number attribute in the subject of the peer's certificate."""
        return self._peer(run, lambda c: c.subject_part(SERIAL_NUMBER))

    @variable("$tls_peer_san_email")
    def peer_san_email(self, run: Run, name: object, index: Index) -> Value:
        """The first e-mail address that the peer's certificate is for."""
        return self._peer(run, Certificate.email)

    @variable("$tls_peer_san_hostname")
    def peer_san_hostname(self, run: Run, name: object, index: Index) -> Value:
        """The first host name that the peer's certificate is for."""
        return self._peer(run, Certificate.hostname)

    @variable("$tls_peer_san_uri")
    def peer_san_uri(self, run: Run, name: object, index: Index) -> Value:
        """The first URI that the peer's certificate is for."""
        return self._peer(run, Certificate.uri)

    @variable("$tls_peer_san_ip")
    def peer_san_ip(self, run: Run, name: object, index: Index) -> Value:
        """The first address that the peer's certificate is for."""
        return self._peer(run, Certificate.ip)

    @variable("$tls_peer_notBefore")
    def peer_notBefore(self, run: Run, name: object, index: Index) -> Value:
        """When the peer's certificate begins to be valid."""
        return self._peer(run, Certificate.not_before)

    @variable("$tls_peer_notAfter")
    def peer_notAfter(self, run: Run, name: object, index: Index) -> Value:
        """When the peer's certificate ceases to be valid."""
        return self._peer(run, Certificate.not_after)

    @variable("$tls_my_version")
    def my_version(self, run: Run, name: object, index: Index) -> Value:
        """Version of our certificate, counted from 0."""
        return self._my(run, Certificate.version)

    @variable("$tls_my_serial")
    def my_serial(self, run: Run, name: object, index: Index) -> Value:
        """Serial number of our certificate."""
        return self._my(run, Certificate.serial)

    @variable("$tls_my_subject")
    def my_subject(self, run: Run, name: object, index: Index) -> Value:
        """Subject of our certificate in one line."""
        return self._my(run, Certificate.subject)

    @variable("$tls_my_issuer")
    def my_issuer(self, run: Run, name: object, index: Index) -> Value:
        """Issuer of our certificate in one line."""
        return self._my(run, Certificate.issuer)

    @variable("$tls_my_subject_cn")
    def my_subject_cn(self, run: Run, name: object, index: Index) -> Value:
        """The common name in the subject of our certificate."""
        return self._my(run, lambda c: c.subject_part(COMMON_NAME))

    @variable("$tls_my_issuer_cn")
    def my_issuer_cn(self, run: Run, name: object, index: Index) -> Value:
        """The common name in the issuer of our certificate."""
        return self._my(run, lambda c: c.issuer_part(COMMON_NAME))

    @variable("$tls_my_subject_locality")
    def my_subject_locality(self, run: Run, name: object, index: Index) -> Value:
        """The locality in the subject of our certificate."""
        return self._my(run, lambda c: c.subject_part(LOCALITY))

    @variable("$tls_my_issuer_locality")
    def my_issuer_locality(self, run: Run, name: object, index: Index) -> Value:
        """The locality in the issuer of our certificate."""
        return self._my(run, lambda c: c.issuer_part(LOCALITY))

    @variable("$tls_my_subject_country")
    def my_subject_country(self, run: Run, name: object, index: Index) -> Value:
        """The country in the subject of our certificate."""
        return self._my(run, lambda c: c.subject_part(COUNTRY))

    @variable("$tls_my_issuer_country")
    def my_issuer_country(self, run: Run, name: object, index: Index) -> Value:
        """The country in the issuer of our certificate."""
        return self._my(run, lambda c: c.issuer_part(COUNTRY))

    @variable("$tls_my_subject_state")
    def my_subject_state(self, run: Run, name: object, index: Index) -> Value:
        """The state or province in the subject of our certificate."""
        return self._my(run, lambda c: c.subject_part(STATE))

    @variable("$tls_my_issuer_state")
    def my_issuer_state(self, run: Run, name: object, index: Index) -> Value:
        """The state or province in the issuer of our certificate."""
        return self._my(run, lambda c: c.issuer_part(STATE))

    @variable("$tls_my_subject_organization")
    def my_subject_organization(self, run: Run, name: object, index: Index) -> Value:
        """The organization in the subject of our certificate."""
        return self._my(run, lambda c: c.subject_part(ORGANIZATION))

    @variable("$tls_my_issuer_organization")
    def my_issuer_organization(self, run: Run, name: object, index: Index) -> Value:
        """The organization in the issuer of our certificate."""
        return self._my(run, lambda c: c.issuer_part(ORGANIZATION))

    @variable("$tls_my_subject_unit")
    def my_subject_unit(self, run: Run, name: object, index: Index) -> Value:
        """The organizational unit in the subject of our certificate."""
        return self._my(run, lambda c: c.subject_part(UNIT))

    @variable("$tls_my_issuer_unit")
    def my_issuer_unit(self, run: Run, name: object, index: Index) -> Value:
        """The organizational unit in the issuer of our certificate."""
        return self._my(run, lambda c: c.issuer_part(UNIT))

    @variable("$tls_my_subject_serial")
    def my_subject_serial(self, run: Run, name: object, index: Index) -> Value:
        """The serial number attribute in the subject of our certificate."""
        return self._my(run, lambda c: c.subject_part(SERIAL_NUMBER))

    @variable("$tls_my_san_email")
    def my_san_email(self, run: Run, name: object, index: Index) -> Value:
        """The first e-mail address that our certificate is for."""
        return self._my(run, Certificate.email)

    @variable("$tls_my_san_hostname")
    def my_san_hostname(self, run: Run, name: object, index: Index) -> Value:
        """The first host name that our certificate is for."""
        return self._my(run, Certificate.hostname)

    @variable("$tls_my_san_uri")
    def my_san_uri(self, run: Run, name: object, index: Index) -> Value:
        """The first URI that our certificate is for."""
        return self._my(run, Certificate.uri)

    @variable("$tls_my_san_ip")
    def my_san_ip(self, run: Run, name: object, index: Index) -> Value:
        """The first address that our certificate is for."""
        return self._my(run, Certificate.ip)


def number(text: str) -> bool:
    """Whether a text is a number other than 0. Raises DomainError for what is none."""
    try:
        return int(text) != 0
    except ValueError:
        raise DomainError(f"{text!r} is no number") from None


def describe_row(row: Sequence[DbValue]) -> Description:
    """The domain of one row of the table. Raises DomainError."""
    texts = [("" if value is None else as_text(value)) for value in row]
    name = texts[0].strip()
    try:
        kind = as_int(row[1])
        flags = [default if row[at] is None else as_int(row[at]) for at, default in ((5, 1), (6, 1), (9, 0))]
    except ValueError as error:
        raise DomainError(f"TLS domain {name}: {error}") from error
    if not name or kind not in (CLIENT, SERVER):
        raise DomainError(f"TLS domain {name!r} has the unknown type {kind}")
    found = Description(name, server=kind == SERVER, inline=True)
    found.addresses = addresses(texts[2])
    found.sip_domains = split(texts[3])
    found.method = texts[4] or found.method
    found.verify_cert, found.require_cert, found.crl_check_all = (flag != 0 for flag in flags)
    found.certificate, found.private_key = texts[7], texts[8]
    found.crl_dir, found.ca_list, found.ca_dir = texts[10], texts[11], texts[12]
    found.ciphers, found.dh_params, found.ec_curve = texts[13], texts[14], texts[15]
    return found


def shown_domain(domain: Domain) -> dict[str, Any]:
    """A domain as `tls_mgm:list` shows it."""
    described = domain.description
    shown: dict[str, Any] = {
        "name": domain.name,
        "type": "TLS_DOMAIN_SRV" if domain.server else "TLS_DOMAIN_CLI",
        "IP ADDRESS FILTERS": described.addresses or ["*"],
        "SIP DOMAIN FILTERS": described.sip_domains or ["*"],
        "METHOD": described.method_text(),
        "VERIFY_CERT": "yes" if described.verify_cert else "no",
        "REQ_CLI_CERT": "yes" if described.require_cert and domain.server else "no",
        "CRL_CHECKALL": "yes" if described.crl_check_all else "no",
        "CRL_DIR": described.crl_dir,
        "CA_DIR": described.ca_dir,
        "CIPHER_LIST": described.ciphers,
        "EC_CURVE": described.ec_curve,
    }
    if not described.inline:
        shown["CERT_FILE"] = described.certificate
        shown["CA_FILE"] = described.ca_list
        shown["PKEY_FILE"] = described.private_key
        shown["DH_PARAMS_FILE"] = described.dh_params
    return shown
