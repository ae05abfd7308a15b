"""What TLS needs to know, whoever speaks it: domains to choose a context from, and what is known of a connection.

`tls_mgm` holds the domains and implements `TlsDomains`; `core.api("tls_mgm", TlsDomains)` is the way to it. The
transports ask for a context for each connection, so that a reload changes the connections that are made after it and
none that is open. A client of another kind (HTTP, a database) asks for a context by the name of a client domain.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod


class TlsDomain:
    """A named set of TLS parameters, ready for use. server: for connections that peers open, else for our own.

    certificate: our own certificates as PEM text, the leaf first; "" when there is none. The private key is in the
    context only. `context` may be shared by many connections.
    """

    __slots__ = ("certificate", "context", "name", "server")

    def __init__(self, name: str, server: bool, context: ssl.SSLContext, certificate: str = "") -> None:
        self.name = name
        self.server = server
        self.context = context
        self.certificate = certificate

    def __repr__(self) -> str:
        return f"<TlsDomain {self.name} {'server' if self.server else 'client'}>"


class TlsDomains(ABC):
    """The TLS domains of a server. What is returned stays valid after a reload; the next question gets the new one."""

    @abstractmethod
    def server_domain(self, address: str, port: int, name: str = "") -> TlsDomain | None:
        """The domain for a connection that a peer opened to our `address` and `port`.

        name: what the peer asks for in its ClientHello (SNI, RFC 6066 §3); "" when it says none. None: refuse it.
        """

    @abstractmethod
    def client_domain(self, address: str, port: int, sip_domain: str = "", name: str = "") -> TlsDomain | None:
        """The domain for a connection that we open to `address` and `port`, None when no domain fits.

        sip_domain: what the script says the connection is for ("" for anything). name: of a domain, which then is used
        whatever its filters say.
        """

    def names(self, certificate: bytes) -> tuple[str, str] | None:
        """Subject and issuer of a certificate (DER or PEM) in one line each; None when it cannot be read."""
        return None

    @abstractmethod
    def client_context(self, name: str) -> ssl.SSLContext:
        """The context of the client domain `name`, for an HTTP client or a database driver. Raises LookupError."""


class TlsSession(ABC):
    """What is known of one TLS connection once its handshake is done."""

    domain: TlsDomain

    @property
    @abstractmethod
    def version(self) -> str:
        """ "TLSv1.3"."""

    @property
    @abstractmethod
    def cipher(self) -> tuple[str, int]:
        """Name and secret bits of the cipher."""

    @property
    @abstractmethod
    def peer_certificate(self) -> bytes:
        """The peer's certificate (DER), b"" when it sent none."""

    @property
    @abstractmethod
    def verified(self) -> bool:
        """Whether the peer's certificate was checked against our certificate authorities, and passed."""
