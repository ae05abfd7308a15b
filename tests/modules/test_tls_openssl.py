"""tls_openssl: `tls_mgm` finds it, and TLS is there."""

from __future__ import annotations

import asyncio

from opensipspy.module.testing import FakeCore
from opensipspy.modules.tls_mgm import TlsMgm
from opensipspy.modules.tls_openssl import TlsOpenssl


def test_it_is_the_library_of_tls_mgm() -> None:
    core = FakeCore()
    core.add(TlsOpenssl())
    module = TlsMgm(tls_library="openssl")
    module.set_param("client_domain", "out")
    core.add(module)
    asyncio.run(module.start())
    assert module.api().client_domain("192.0.2.1", 5061) is not None
