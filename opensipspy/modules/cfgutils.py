"""Randomness, shared variables, locks, waiting and clocks for scripts.

A script that waits (sleep, usleep, a lock that another message holds) is suspended; the server goes on. Locks belong to
the server: who took one is not remembered, as in the manual, so a script that ends without giving its lock back blocks
those that ask for it.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import resource
import time
import zlib
from collections import deque
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Any, Final

from opensipspy.management.registry import Json
from opensipspy.module import (
    MiError,
    Module,
    Param,
    ParamError,
    StartError,
    WritableVar,
    mi_command,
    script_function,
    variable,
)
from opensipspy.module.time_rec import Check, TimeRecError, parse
from opensipspy.script.declare import Index, Value
from opensipspy.script.kinds import ALL, ERROR
from opensipspy.script.run import Run, VarRef

MOST_KINDS: Final = ALL & ~ERROR
CLOCK_FIELDS: Final = ("sec", "min", "hour", "mday", "mon", "year", "wday", "yday", "isdst")
HIGHEST_INT: Final = 2**31 - 1
KEPT_RECURRENCES: Final = 256
HIGHEST_COUNT: Final = 100_000


class Lock:
    """Taken or free; who waits for it gets it in the order of asking."""

    __slots__ = ("taken", "waiting")

    def __init__(self) -> None:
        self.taken = False
        self.waiting: deque[asyncio.Future[None]] = deque()

    def release(self) -> bool:
        """Hand the lock to who waits longest; True when nobody waits and it is free."""
        while self.waiting:
            following = self.waiting.popleft()
            if not following.done():
                following.set_result(None)  # stays taken: it changes hands
                return False
        self.taken = False
        return True


def assignment(module: str, param: str, value: str) -> tuple[str, Value]:
    """`name=i:5` or `name=s:text`; raises ParamError."""
    name, equals, rest = value.partition("=")
    kind, colon, text = rest.partition(":")
    if not (name and equals and colon) or kind not in ("i", "s"):
        raise ParamError(module, param, f"{value!r} has not the form name=i:number or name=s:text")
    if kind == "s":
        return name, text
    try:
        return name, int(text, 0)
    except ValueError:
        raise ParamError(module, param, f"{text!r} is no number") from None


class CfgUtils(Module):
    """Random decisions, shared variables, locks, waiting and clocks."""

    name = "cfgutils"

    initial_probability = Param(int, 10, "Probability of rand_event() at the start, 0 to 100.", unit="percent")
    hash_file = Param(str, None, "File whose hash is kept at the start, to see later whether it was changed.")
    shv_hash_size = Param(int, 64, "Accepted for compatibility: shared variables need no size.")
    shvset = Param(str, None, "First value of a `$shv`: name=i:number or name=s:text.", repeated=True, func="set_shv")
    varset = Param(str, None, "First value of a `$var`: name=i:number or name=s:text.", repeated=True, func="set_var")
    lock_pool_size = Param(int, 32, "How many dynamic locks there are, a power of 2.")

    def __init__(self, **params: Any) -> None:
        self.shared: dict[str, Value] = {}
        self.first_vars: dict[str, Value] = {}
        self.static_locks: dict[str, Lock] = {}
        self.kept: dict[str, Check | None] = {}
        self.config_hash = ""
        super().__init__(**params)
        self.probability = self.initial_probability
        self.dynamic_locks = [Lock() for _ in range(self.lock_pool_size)]

    def set_param(self, name: str, value: object) -> None:
        super().set_param(name, value)
        if not 0 <= self.initial_probability <= 100:
            raise ParamError(self.name, "initial_probability", f"is from 0 to 100, not {self.initial_probability}")
        size = self.lock_pool_size
        if not 1 <= size <= 2**20 or size & (size - 1):
            raise ParamError(self.name, "lock_pool_size", f"is a power of 2 up to 1048576, not {size}")
        self.probability = self.initial_probability
        self.dynamic_locks = [Lock() for _ in range(size)]

    def set_shv(self, value: str) -> None:
        name, first = assignment(self.name, "shvset", value)
        self.shared[name] = first

    def set_var(self, value: str) -> None:
        name, first = assignment(self.name, "varset", value)
        self.first_vars[name] = first

    async def start(self) -> None:
        if self.first_vars:
            self.core.before_script(self._give_vars)
        if self.hash_file:
            try:
                self.config_hash = await asyncio.to_thread(self._hash)
            except OSError as error:
                raise StartError(f"hash_file {self.hash_file}: {error.strerror}") from error

    def _give_vars(self, run: Run) -> bool:
        for name, value in self.first_vars.items():
            run.vars.setdefault(name, value)
        return True

    def _hash(self) -> str:
        # To see a change by accident, not to keep an attacker out.
        content = Path(self.hash_file or "").read_bytes()
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    # --- randomness

    @script_function(routes=MOST_KINDS)
    def rand_event(self, run: Run, probability: int | None = None) -> int:
        """True in `probability` percent of the calls (without it: of rand_set_prob())."""
        limit = self.probability if probability is None else probability
        return 1 if self.core.random.random() * 100 < limit else -1

    @script_function(routes=MOST_KINDS)
    def rand_set_prob(self, run: Run, probability: int) -> int:
        """Set the probability of rand_event(), 0 to 100 percent; -1 for another number."""
        if not 0 <= probability <= 100:
            return -1
        self.probability = probability
        return 1

    @script_function(routes=MOST_KINDS)
    def rand_reset_prob(self, run: Run) -> int:
        """Set the probability of rand_event() back to `initial_probability`."""
        self.probability = self.initial_probability
        return 1

    @script_function(routes=MOST_KINDS)
    def rand_get_prob(self, run: Run) -> int:
        """Return the probability of rand_event(), in percent; 0 ends the script, as every function's 0 does."""
        return self.probability

    @script_function(routes=MOST_KINDS)
    def set_select_weight(self, run: Run, int_list_var: VarRef) -> int:
        """Choose one of the integers with a chance in proportion to it; returns its index, from 0.

        Index 0 ends the script, as every function's 0 does. -1: no values, or not all of them weights.
        """
        values = self._values(run, int_list_var)
        weights = [value for value in values if isinstance(value, int) and value >= 0]
        if not weights or len(weights) != len(values) or not sum(weights):
            return -1
        left = self.core.random.randrange(sum(weights))
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        return -1

    @script_function(routes=ALL)
    def shuffle_avps(self, run: Run, name: Annotated[VarRef, WritableVar("avp")]) -> int:
        """Bring the values of an AVP into random order; -1 when it has none."""
        stack = run.avps.get(name.name)
        if not stack:
            return -1
        self.core.random.shuffle(stack)
        return 1

    @variable("$RANDOM")
    def random_number(self, run: Run, name: object, index: Index) -> Value:
        """A random number from 0 to 2147483647."""
        return self.core.random.randrange(2**31)

    # --- counting

    def _values(self, run: Run, ref: VarRef) -> list[Value]:
        """All values of a variable, the first one first."""
        decl = self.core.catalogue.variables.get(ref.variable.removeprefix("$"))
        if decl is None or not decl.index or (decl.name_arg and not ref.name):
            value = ref.get(run)
            return [] if value is None else [value]
        name: Any = ref.name
        if decl.parse_name and name:
            name = decl.parse_name(name)
        values: list[Value] = []
        while len(values) < HIGHEST_COUNT:
            value = decl.get(run, name, len(values))
            if value is None:
                break
            values.append(value)
        return values

    @script_function(routes=MOST_KINDS)
    def set_count(self, run: Run, var_to_count: VarRef, ret_var: VarRef) -> int:
        """Write how many values a variable has into `ret_var`."""
        ret_var.set(run, len(self._values(run, var_to_count)))
        return 1

    # --- waiting

    async def _pause(self, seconds: float) -> int:
        woken = asyncio.get_running_loop().create_future()
        timer = self.core.call_later(max(0.0, seconds), self._wake, woken)
        try:
            await self.core.wait(woken)
        finally:
            timer.cancel()
        return 1

    @staticmethod
    def _wake(woken: asyncio.Future[None]) -> None:
        if not woken.done():
            woken.set_result(None)

    @script_function(routes=MOST_KINDS, async_ok=True)
    async def sleep(self, run: Run, time: int) -> int:
        """Suspend the script for `time` seconds."""
        return await self._pause(time)

    @script_function(routes=MOST_KINDS, async_ok=True)
    async def usleep(self, run: Run, time: int) -> int:
        """Suspend the script for `time` microseconds; the server's timers go in steps of about 10 ms."""
        return await self._pause(time / 1_000_000)

    # --- locks

    def _take(self, lock: Lock) -> int | Awaitable[int]:
        if not lock.taken:
            lock.taken = True
            return 1
        return self._wait_for(lock)

    async def _wait_for(self, lock: Lock) -> int:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lock.waiting.append(turn)
        try:
            await self.core.wait(turn)
        except BaseException:
            if turn.done() and not turn.cancelled():
                lock.release()  # it was handed to a script that is gone
            else:
                turn.cancel()
                if turn in lock.waiting:
                    lock.waiting.remove(turn)
            raise
        return 1

    def _dynamic(self, key: str) -> Lock:
        return self.dynamic_locks[zlib.crc32(key.encode("utf-8", "surrogateescape")) & (self.lock_pool_size - 1)]

    @script_function(routes=MOST_KINDS)
    def get_static_lock(self, run: Run, key: str) -> int | Awaitable[int]:
        """Take the lock of this name; while another message holds it, this one waits."""
        return self._take(self.static_locks.setdefault(key, Lock()))

    @script_function(routes=MOST_KINDS)
    def release_static_lock(self, run: Run, key: str) -> int:
        """Give the lock of this name back; nothing happens when it is free."""
        lock = self.static_locks.get(key)
        if lock is not None and lock.taken and lock.release():
            del self.static_locks[key]
        return 1

    @script_function(routes=MOST_KINDS)
    def get_dynamic_lock(self, run: Run, key: str) -> int | Awaitable[int]:
        """Take the lock that the key hashes to; while another message holds it, this one waits."""
        return self._take(self._dynamic(key))

    @script_function(routes=MOST_KINDS)
    def release_dynamic_lock(self, run: Run, key: str) -> int:
        """Give the lock that the key hashes to back; nothing happens when it is free."""
        lock = self._dynamic(key)
        if lock.taken:
            lock.release()
        return 1

    @script_function(routes=MOST_KINDS)
    def strings_share_lock(self, run: Run, key1: str, key2: str) -> int:
        """True when both keys hash to the same dynamic lock."""
        return 1 if self._dynamic(key1) is self._dynamic(key2) else -1

    # --- clocks

    @script_function(routes=MOST_KINDS)
    def get_accurate_time(self, run: Run, sec: VarRef, usec: VarRef, str_sec_usec: VarRef | None = None) -> int:
        """Write the Unix time: seconds, microseconds, and both as a text with six decimals."""
        seconds, microseconds = divmod(int(self.core.time() * 1_000_000), 1_000_000)
        sec.set(run, seconds)
        usec.set(run, microseconds)
        if str_sec_usec is not None:
            str_sec_usec.set(run, f"{seconds}.{microseconds:06}")
        return 1

    @script_function(routes=MOST_KINDS)
    def ts_usec_delta(
        self,
        run: Run,
        t1_sec: int,
        t1_usec: int,
        t2_sec: int,
        t2_usec: int,
        delta_str: Annotated[VarRef | None, WritableVar()] = None,
        delta_int: Annotated[VarRef | None, WritableVar()] = None,
    ) -> int:
        """Write the distance of two times in microseconds; -1 when it is too large for `delta_int`."""
        distance = abs((t1_sec - t2_sec) * 1_000_000 + t1_usec - t2_usec)
        if delta_str is not None:
            delta_str.set(run, str(distance))
        if delta_int is not None:
            if distance > HIGHEST_INT:
                return -1
            delta_int.set(run, distance)
        return 1

    @script_function(routes=ALL)
    def check_time_rec(self, run: Run, time_string: str, timestamp: int | None = None) -> int:
        """Whether now, or the Unix time `timestamp`, is within a time recurrence (RFC 2445 §4.3.10).

        Returns 1 within, -1 not within, -2 when `time_string` is no recurrence.
        """
        if time_string not in self.kept:
            if len(self.kept) >= KEPT_RECURRENCES:
                del self.kept[next(iter(self.kept))]
            try:
                self.kept[time_string] = parse(time_string)
            except TimeRecError as error:
                self.core.log.error("check_time_rec: %s", error)
                self.kept[time_string] = None
        check = self.kept[time_string]
        if check is None:
            return -2
        return 1 if check(self.core.time() if timestamp is None else timestamp) else -1

    @variable("$ctime", name_arg=True, fixed_names=CLOCK_FIELDS)
    def ctime(self, run: Run, name: str, index: Index) -> Value:
        """A part of the local time: sec, min, hour, mday, mon, year, wday (1 is Sunday), yday, isdst."""
        now = time.localtime(self.core.time())
        if name == "wday":
            return (now.tm_wday + 1) % 7 + 1
        value: int = getattr(now, f"tm_{name}")
        return value

    # --- the process

    @variable("$env", name_arg=True)
    def env(self, run: Run, name: str, index: Index) -> Value:
        """An environment variable; NULL when it is not set."""
        return os.environ.get(name)

    @script_function(routes=MOST_KINDS)
    def abort(self, run: Run) -> int:
        """End the server at once, with a core dump where the system makes them; for debugging."""
        self.core.log.critical("abort() of the script")
        os.abort()

    @script_function(routes=MOST_KINDS)
    def pkg_status(self, run: Run) -> int:
        """Log what the garbage collector of this process looks after."""
        self.core.log.info(
            "memory: %s objects by generation, %d collections", gc.get_count(), gc.get_stats()[2]["collections"]
        )
        return 1

    @script_function(routes=MOST_KINDS)
    def shm_status(self, run: Run) -> int:
        """Log how much memory this process took at most, and how many shared variables there are."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.core.log.info("memory: at most %d KiB, %d shared variables", peak, len(self.shared))
        return 1

    # --- shared variables

    @variable("$shv", name_arg=True, writable=True)
    def shv(self, run: Run, name: str, index: Index) -> Value:
        """A variable of the whole server, 0 until it is set."""
        return self.shared.get(name, 0)

    @shv.setter
    def shv_assign(self, run: Run, name: str, index: Index, value: Value) -> None:
        if value is None:
            self.shared.pop(name, None)
        else:
            self.shared[name] = value

    @mi_command("cfgutils:shv_set", params=(("name", "type", "value"),), types={"name": "string", "type": "string"})
    def mi_shv_set(self, name: str, type: str, value: str) -> Json:
        """Set a shared variable; type: int or str."""
        if type not in ("int", "str"):
            raise MiError(500, "type not found")
        if type == "str":
            self.shared[name] = str(value)
        else:
            try:
                self.shared[name] = int(value)
            except ValueError:
                raise MiError(500, "value not found") from None
        return "OK"

    def _as_json(self, name: str) -> dict[str, Json]:
        value = self.shared[name]
        return {"name": name, "type": "integer" if isinstance(value, int) else "string", "value": value}

    @mi_command("cfgutils:shv_get", params=((), ("name",)), types={"name": "string"})
    def mi_shv_get(self, name: str | None = None) -> Json:
        """Show a shared variable, or all of them."""
        if name is None:
            return [[self._as_json(each) for each in self.shared]]
        if name not in self.shared:
            raise MiError(404, "Not found")
        return {"VAR": self._as_json(name)}

    # --- management of the rest

    @mi_command("cfgutils:rand_set_prob", params=(("prob_proc",),), types={"prob_proc": "int"})
    def mi_rand_set_prob(self, prob_proc: int) -> Json:
        """Set the probability of rand_event(), 0 to 100 percent."""
        if not 0 <= prob_proc <= 100:
            raise MiError(400, "Bad parameter value")
        self.probability = prob_proc
        return "OK"

    @mi_command("cfgutils:rand_reset_prob")
    def mi_rand_reset_prob(self) -> Json:
        """Set the probability of rand_event() back to `initial_probability`."""
        self.probability = self.initial_probability
        return "OK"

    @mi_command("cfgutils:rand_get_prob")
    def mi_rand_get_prob(self) -> Json:
        """Show the probability of rand_event()."""
        return {"actual probability percent": self.probability}

    @mi_command("cfgutils:get_config_hash")
    def mi_get_config_hash(self) -> Json:
        """Show the hash that `hash_file` had at the start."""
        if not self.hash_file:
            raise MiError(404, "Functionality disabled")
        return self.config_hash

    @mi_command("cfgutils:check_config_hash")
    async def mi_check_config_hash(self) -> Json:
        """Tell whether `hash_file` is what it was at the start."""
        if not self.hash_file:
            raise MiError(404, "Functionality disabled")
        try:
            now = await asyncio.to_thread(self._hash)
        except OSError as error:
            raise MiError(500, "Internal error", error.strerror) from error
        if now != self.config_hash:
            raise MiError(400, "The actual config file hash is not identical to the stored one.")
        return "The actual config file hash is identical to the stored one."
