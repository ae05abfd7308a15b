"""tls_openssl: lets scripts name the TLS library that they were written for."""

from __future__ import annotations

from opensipspy.module import Module


class TlsOpenssl(Module):
    """TLS with OpenSSL, which Python's module `ssl` stands on: there is nothing else to set here."""
