"""Certificates made for a test: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY: datetime.timedelta = datetime.timedelta(days=1)


class Identity:
    """A certificate and its key, as PEM text and as files in the authority's folder."""

    def __init__(self, folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self.cert_pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.cert = folder / f"{name}.cert.pem"
        self.key = folder / f"{name}.key.pem"
        self.cert.write_text(self.cert_pem)
        self.key.write_text(self.key_pem)


class Authority:
    """A certificate authority of its own."""

    def __init__(
        self, folder: Path, name: str = "Test Authority", subject: Sequence[tuple[x509.ObjectIdentifier, str]] = ()
    ) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        attributes = (*subject, (NameOID.COMMON_NAME, name))
        self._name = x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])
        made = self._builder(self._name, self._key, DAY).add_extension(x509.BasicConstraints(True, None), True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
        made = made.add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
        )
        self.certificate = made.sign(self._key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.path = folder / f"{name.replace(' ', '-')}.pem"
        self.path.write_text(self.pem)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, valid: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + valid)
        )

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = (),
        addresses: Sequence[str] = ("127.0.0.1", "::1"),
        subject: Sequence[tuple[x509.ObjectIdentifier, str]] = (),
        others: Sequence[x509.GeneralName] = (),
        valid: datetime.timedelta = DAY,
    ) -> Identity:
        """A certificate for `name`; valid: below zero for one that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(oid, text) for oid, text in (*subject, (NameOID.COMMON_NAME, name))]
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in (hosts or (name,))]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        made = self._builder(x509.Name(attributes), key, valid)
        made = made.add_extension(x509.SubjectAlternativeName([*names, *others]), False)
        made = made.add_extension(x509.BasicConstraints(False, None), True)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        return Identity(self.folder, name, made.sign(self._key, hashes.SHA256()), key)

    def revocations(self, folder: Path, *revoked: Identity) -> Path:
        """A folder with the list of what is revoked."""
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now - DAY)
        made = made.next_update(now + DAY)
        for identity in revoked:
            made = made.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(identity.certificate.serial_number)
                .revocation_date(now - DAY)
                .build()
            )
        folder.mkdir(exist_ok=True)
        signed = made.sign(self._key, hashes.SHA256())
        (folder / "list.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return folder
