"""h350 without a directory: what it answers then. With a real one it is asked in test_ldap.py."""

from __future__ import annotations

from typing import Any

import pytest

from opensipspy.module import Module, StartError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.h350 import H350
from tests.modules.asynchronous import in_loop


class NoDirectory(Module):
    """Stands for `ldap`."""

    name = "ldap"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.asked: list[tuple[Any, ...]] = []

    def has_session(self, name: str) -> bool:
        return name == "main"

    async def search(self, run: Any, *params: Any) -> int:
        self.asked.append(params)
        return -2

    def values(self, run: Any, attribute: str) -> list[str] | None:
        return None

    def escape(self, text: str) -> str:
        return text.replace("*", "\\2a")


@in_loop
async def test_a_directory_that_is_away() -> None:
    core = FakeCore()
    directory = core.add(NoDirectory())
    module = core.add(H350(ldap_session="main", base_dn="ou=x", search_scope="sub"))
    await module.start()
    run = make_run(request("INVITE", "sip:x@example.com"), core=core)
    assert await module.h350_sipuri_lookup(run, "sip:*@x") == -1
    assert await module.h350_auth_lookup(run, "bob", make_var("a"), make_var("b")) == -1
    assert await module.h350_sipuri_lookup(run, None) == -1
    assert await module.h350_auth_lookup(run, None, make_var("a"), make_var("b")) == -1
    assert module.h350_result_call_preferences(run, "p") == -1
    assert module.h350_result_service_level(run, "p") == -1
    assert directory.asked == [
        ("main", "ou=x", "sub", "(&(objectClass=SIPIdentity)(SIPIdentitySIPURI=sip:\\2a@x))"),
        ("main", "ou=x", "sub", "(&(objectClass=SIPIdentity)(SIPIdentityUserName=bob))"),
    ]


@in_loop
async def test_a_scope_that_is_none() -> None:
    core = FakeCore()
    core.add(NoDirectory())
    with pytest.raises(StartError, match="search_scope"):
        await core.add(H350(ldap_session="main", search_scope="deep")).start()
