"""Microseconds to find an address in 50,000 rows and a number in 10,000 rules: `python -m bench.micro_permissions`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.dialplan import Dialplan
from opensipspy.modules.dialplan.rules import Rules
from opensipspy.modules.permissions import Permissions
from opensipspy.modules.permissions.addresses import AddressTable

ADDRESSES = 50_000
RULES = 10_000
LOOKUPS = 100_000


def addresses(rng: random.Random) -> AddressTable:
    """Half hosts, half networks of eight lengths, one in ten IPv6, in 100 groups, some with port or pattern."""
    table = AddressTable()
    for n in range(ADDRESSES):
        group, port, proto = 1 + n % 100, (0, 0, 0, 5060)[n % 4], ("any", "udp")[n % 2]
        pattern = "*@example.com" if n % 50 == 0 else None
        if n % 10 == 0:
            ip, mask = f"2001:db8:{rng.randrange(65536):x}::{n:x}", (128, 64, 48)[n % 3]
        else:
            ip = ".".join(str(rng.randrange(1, 255)) for _ in range(4))
            mask = 32 if n % 2 else (8, 12, 16, 19, 22, 24, 28, 30)[n % 8] if n % 8 else 20
        table.add((n, ip, group, mask, port, proto, pattern, "info"))
    table.finish()
    return table


def rules(rng: random.Random, core: FakeCore) -> Rules:
    """A number plan: a third equal numbers, two thirds expressions that begin with digits, 20 others."""
    plan = Rules(core.catalogue)
    for n in range(RULES):
        number = str(rng.randrange(10**5, 10**9))
        if n % 500 == 0:
            row = (n, 1, 9, 1, f"{number}$", 0, None, "x", "", None)
        elif n % 3 == 0:
            row = (n, 1, 5, 0, number, 0, None, "4" + number, "a", None)
        else:
            row = (n, 1, 5, 1, f"^(00|\\+){number[:6]}[0-9]+", 0, r"^(00|\+)(.+)", r"\2", "a", None)
        plan.add(row)
    plan.finish()
    return plan


def measure(name: str, ask: Callable[[str], object], inputs: Sequence[str]) -> None:
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for one in inputs:
            ask(one)
        best = min(best, time.perf_counter() - began)
    print(f"{name:<58} {best / len(inputs) * 1e6:7.2f} us")


def main() -> None:
    rng = random.Random(7)
    core = FakeCore()
    began = time.perf_counter()
    table = addresses(rng)
    print(f"{ADDRESSES} addresses laid out in {time.perf_counter() - began:.2f} s")
    module = core.add(Permissions())
    dialplan = core.add(Dialplan())
    run = make_run(request(), core=core)
    info = make_var("info")
    hit = [row for row in table.listed(hosts=True) if ":" not in str(row["ip"])]
    known = [str(rng.choice(hit)["ip"]) for _ in range(LOOKUPS // 4)]
    unknown = [".".join(str(rng.randrange(1, 255)) for _ in range(4)) for _ in range(LOOKUPS // 4)]
    six = [f"2001:db8:{rng.randrange(65536):x}::{rng.randrange(65536):x}" for _ in range(LOOKUPS // 4)]
    holder = type("Loaded", (), {"data": table})()
    module.__dict__["_caches"] = {"default": holder}
    for name, group in (("any group", 0), ("one group", 7)):
        for kind, inputs in (("known hosts", known), ("random IPv4", unknown), ("random IPv6", six)):
            measure(
                f"check_address, {name}, {kind}",
                lambda ip, group=group: module.check_address(run, group, ip, 5060, 1, info),
                inputs,
            )
    began = time.perf_counter()
    plans = rules(rng, core)
    print(f"{RULES} rules laid out in {time.perf_counter() - began:.2f} s")
    dialplan.__dict__["_caches"] = {"default": type("Loaded", (), {"data": plans})()}
    plan = plans.plans[1]
    equal = rng.choices(list(plan.equal), k=LOOKUPS // 4)
    prefixed = [prefix + "1234" for prefix in rng.choices(list(plan.prefixed), k=LOOKUPS // 4)]
    none = [str(rng.randrange(10**9, 10**10)) for _ in range(LOOKUPS // 10)]
    out = make_var("out")
    for kind, inputs in (
        ("equal numbers", equal),
        ("numbers by their prefix", prefixed),
        ("numbers without rule", none),
    ):
        measure(f"dp_translate, {kind}", lambda text: dialplan.dp_translate(run, 1, text, out), inputs)


if __name__ == "__main__":
    main()
