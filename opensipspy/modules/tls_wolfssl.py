"""tls_wolfssl: lets scripts that were written for wolfSSL start."""

from __future__ import annotations

from opensipspy.module import Module, Param


class TlsWolfssl(Module):
    """TLS for scripts that ask for wolfSSL. The engine is Python's module `ssl`, which stands on OpenSSL, all the same.

    `try_use_ktls` is accepted: the kernel does not take over the encryption here, as it need not where it was asked to
    try.
    """

    try_use_ktls = Param(int, 0, "Let the kernel encrypt where it can; it never does here.")
