"""TLS between Diameter peers (RFC 6733 §13.1): both show a certificate, which has to name their Diameter identity."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opensipspy.modules.aaa_diameter.config import Config, ConfigError


class Tls:
    """How this peer shows and checks certificates. client: for connections it makes, server: for those of others."""

    def __init__(self, config: Config, folder: Path) -> None:
        """Raises ConfigError for files that cannot be used."""
        self.client = self._context(ssl.PROTOCOL_TLS_CLIENT, config, folder)
        self.server = self._context(ssl.PROTOCOL_TLS_SERVER, config, folder)

    @staticmethod
    def _context(kind: int, config: Config, folder: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(kind)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(folder / config.certificate, folder / config.key)
        except OSError as error:
            raise ConfigError(f"TLS_Cred: {config.certificate}, {config.key}: {_reason(error)}") from error
        for name in (config.authorities, config.revocations):
            try:
                if name:
                    context.load_verify_locations(folder / name)
            except OSError as error:
                raise ConfigError(f"TLS_CA, TLS_CRL: {name}: {_reason(error)}") from error
        if config.revocations:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def _reason(error: OSError) -> str:
    return getattr(error, "reason", "") or error.strerror or str(error)


def names_identity(certificate: Mapping[str, Any] | None, identity: str) -> bool:
    """Whether a checked certificate (`getpeercert()`) is that of a Diameter identity.

    By its DNS names, one of which may have an asterisk for the first label; by its common name when it has none.
    """
    identity = identity.lower()
    if not certificate or not identity:
        return False
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        subject = certificate.get("subject", ())
        names = [value for parts in subject for kind, value in parts if kind == "commonName"]
    return any(
        name == identity or (name[:2] == "*." and identity.partition(".")[2] == name[2:])
        for name in (str(name).lower() for name in names)
    )
