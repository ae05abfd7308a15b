"""What a certificate says, in the words of the script variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.x509 import Certificate as X509
    from cryptography.x509 import Name

    from opensipspy.script.run import Value

# The order of attributes in OpenSSL's one-line form is that of the certificate; these are its short names.
SHORT_NAMES: Final = {
    "2.5.4.3": "CN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "1.2.840.113549.1.9.1": "emailAddress",
    "0.9.2342.19200300.100.1.25": "DC",
}
COMMON_NAME: Final = "2.5.4.3"
COUNTRY: Final = "2.5.4.6"
LOCALITY: Final = "2.5.4.7"
STATE: Final = "2.5.4.8"
ORGANIZATION: Final = "2.5.4.10"
UNIT: Final = "2.5.4.11"
SERIAL_NUMBER: Final = "2.5.4.5"
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Numbers beyond are texts for the script.
BIGGEST_INT: Final = (1 << 31) - 1


class CertificatesMissing(RuntimeError):
    """The library is not installed."""

    def __init__(self) -> None:
        super().__init__("reading certificates needs the package cryptography: pip install 'opensipspy[tls]'")


class Certificate:
    """One certificate, read. Its methods answer None for what it does not say."""

    def __init__(self, data: bytes) -> None:
        """data: DER or PEM. Raises ValueError, CertificatesMissing."""
        try:
            from cryptography import x509
        except ImportError as error:
            raise CertificatesMissing from error
        self._x509 = x509
        pem = data.lstrip().startswith(b"-----")
        try:
            self.cert: X509 = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        except x509.InvalidVersion as error:
            # OpenSSL lets such a certificate of a peer pass where nothing is verified.
            raise ValueError(str(error)) from error

    def version(self) -> Value:
        """As OpenSSL counts: 2 is version 3."""
        return int(self.cert.version.value)

    def serial(self) -> Value:
        number = self.cert.serial_number
        return number if number <= BIGGEST_INT else str(number)

    def subject(self) -> Value:
        return one_line(self.cert.subject)

    def issuer(self) -> Value:
        return one_line(self.cert.issuer)

    def subject_part(self, oid: str) -> Value:
        return part(self.cert.subject, oid)

    def issuer_part(self, oid: str) -> Value:
        return part(self.cert.issuer, oid)

    def not_before(self) -> Value:
        return shown(self.cert.not_valid_before_utc)

    def not_after(self) -> Value:
        return shown(self.cert.not_valid_after_utc)

    def expired(self, now: float) -> bool:
        return self.cert.not_valid_after_utc.timestamp() < now

    def self_signed(self) -> bool:
        return self.cert.subject == self.cert.issuer

    def email(self) -> Value:
        return self._alternative(self._x509.RFC822Name)

    def hostname(self) -> Value:
        return self._alternative(self._x509.DNSName)

    def uri(self) -> Value:
        return self._alternative(self._x509.UniformResourceIdentifier)

    def ip(self) -> Value:
        return self._alternative(self._x509.IPAddress)

    def _alternative(self, kind: Callable[..., object]) -> Value:
        x509 = self._x509
        try:
            names = self.cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            return None
        return next((str(name.value) for name in names if type(name) is kind), None)


def one_line(name: Name) -> str:
    """ "/C=DE/O=Example/CN=example.org"."""
    return "".join(
        f"/{SHORT_NAMES.get(attribute.oid.dotted_string, attribute.oid.dotted_string)}={_text(attribute.value)}"
        for attribute in name
    )


def part(name: Name, oid: str) -> Value:
    return next((_text(attribute.value) for attribute in name if attribute.oid.dotted_string == oid), None)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def shown(when: datetime) -> str:
    """ "Jan  2 03:04:05 2026 GMT"."""
    return f"{MONTHS[when.month - 1]} {when.day:2d} {when:%H:%M:%S %Y} GMT"
