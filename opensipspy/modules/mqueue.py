"""Queues of (key, value) pairs between routes: what need not be done now is put in, a timer_route takes it out.

What mq_fetch() took belongs to the run that took it: `$mqk` and `$mqv` of another message, which may run while this one
waits, are not touched.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from opensipspy.db import Insert, as_text
from opensipspy.management.registry import Json
from opensipspy.module import MiError, Module, Param, ParamError, StartError, mi_command, script_function, variable
from opensipspy.script.declare import Index, Value
from opensipspy.script.kinds import ALL
from opensipspy.script.run import Run

APPEND: Final = 0
KEEP_OLDEST: Final = 1
KEEP_NEWEST: Final = 2
READ_MODES: Final = frozenset({1, 3})
WRITE_MODES: Final = frozenset({1, 2})
HIGHEST_SIZE: Final = 1_000_000
"""A queue without a size takes no more: a script that only adds must not eat the memory of the server."""
FETCHED: Final = "mqueue:"
"""Key in `run.ctx`, before the queue's name: the (key, value) that mq_fetch() took last."""

Item = tuple[str, str]


class Queue:
    """Pairs, oldest first. size 0: no limit of its own. add_mode: APPEND, KEEP_OLDEST or KEEP_NEWEST of equal keys."""

    __slots__ = ("add_mode", "db_mode", "items", "name", "serial", "size")

    def __init__(self, name: str, size: int = 0, db_mode: int = 0, add_mode: int = APPEND) -> None:
        self.name = name
        self.size = size
        self.db_mode = db_mode
        self.add_mode = add_mode
        self.serial = 0
        self.items: OrderedDict[str | int, Item] = OrderedDict()

    def add(self, key: str, value: str) -> bool:
        """Put a pair at the end; the oldest leaves when there are too many. False: there is no room at all."""
        slot: str | int = key
        if self.add_mode == APPEND:
            self.serial += 1
            slot = self.serial
        elif slot in self.items:
            if self.add_mode == KEEP_OLDEST:
                return True
            del self.items[slot]
        if not self.size and len(self.items) >= HIGHEST_SIZE:
            return False
        self.items[slot] = (key, value)
        if self.size and len(self.items) > self.size:
            self.items.popitem(last=False)
        return True

    def take(self) -> Item | None:
        """The oldest pair, which leaves the queue; None when it is empty."""
        return self.items.popitem(last=False)[1] if self.items else None


def parse_queue(text: str) -> Queue:
    """`name=myq;size=20;dbmode=1;addmode=2`; raises ValueError with what is wrong."""
    name = ""
    numbers = {"size": 0, "dbmode": 0, "addmode": 0}
    highest = {"size": HIGHEST_SIZE, "dbmode": 3, "addmode": KEEP_NEWEST}
    for part in text.split(";"):
        if not part.strip():
            continue
        key, _, value = (piece.strip() for piece in part.partition("="))
        key = key.lower()
        if key == "name":
            name = value
        elif key not in numbers:
            raise ValueError(f"{key!r} is none of name, size, dbmode, addmode")
        elif not (value.isascii() and value.isdigit()) or len(value) > 9 or int(value) > highest[key]:
            raise ValueError(f"{key} is a number from 0 to {highest[key]}, not {value!r}")
        else:
            numbers[key] = int(value)
    if not name:
        raise ValueError(f"{text!r} gives the queue no name")
    return Queue(name, numbers["size"], numbers["dbmode"], numbers["addmode"])


class MQueue(Module):
    """Queues between routes, kept over a restart when they are asked to."""

    name = "mqueue"

    db_url = Param(str, None, "Database with a table (id, key, val) for each queue that has a dbmode.")
    mqueue = Param(
        str,
        None,
        "A queue: name=...;size=...;dbmode=...;addmode=..., all but the name optional.",
        func="set_queue",
        repeated=True,
    )

    def __init__(self, **params: Any) -> None:
        self.queues: dict[str, Queue] = {}
        super().__init__(**params)

    def set_queue(self, value: str) -> None:
        queue = parse_queue(value)
        if queue.name in self.queues:
            raise ParamError(self.name, "mqueue", f"the queue {queue.name!r} is defined twice")
        self.queues[queue.name] = queue

    # --- the database

    async def start(self) -> None:
        kept = [queue for queue in self.queues.values() if queue.db_mode]
        if kept and not self.db_url:
            raise StartError(f"mqueue: the queue {kept[0].name!r} has a dbmode, so db_url has to be set")
        for queue in kept:
            if queue.db_mode in READ_MODES:
                await self._load(queue)

    async def _load(self, queue: Queue) -> None:
        assert self.db_url
        database = self.core.database(self.db_url)
        rows = await database.select(queue.name, ("id", "key", "val"), order="id")
        for _, key, value in rows:
            queue.add(as_text(key), as_text(value))
        if rows:
            # What was read is ours now: left there, it would come back a second time after the next start.
            await database.delete(queue.name, (("id", "<=", rows[-1][0]),))

    async def stop(self) -> None:
        for queue in self.queues.values():
            if queue.db_mode in WRITE_MODES and self.db_url and queue.items:
                rows = [Insert(queue.name, {"key": key, "val": val}) for key, val in queue.items.values()]
                await self.core.database(self.db_url).execute(rows)
                queue.items.clear()

    # --- the script

    def _queue(self, name: str) -> Queue | None:
        queue = self.queues.get(name)
        if queue is None:
            self.core.log.error("mqueue: there is no queue %r", name)
        return queue

    @script_function(routes=ALL)
    def mq_add(self, run: Run, queue: str, key: str, value: str) -> int:
        """Put a pair at the end of a queue; the oldest leaves when the queue's size is exceeded.

        Returns 1, or -1 when there is no such queue or no room.
        """
        found = self._queue(queue)
        if found is None:
            return -1
        if not found.add(key, value):
            self.core.log.error("mqueue: the queue %r holds %d pairs and takes no more", queue, HIGHEST_SIZE)
            return -1
        return 1

    @script_function(routes=ALL)
    def mq_fetch(self, run: Run, queue: str) -> int:
        """Take the oldest pair of a queue: `$mqk(queue)` and `$mqv(queue)` show it.

        Returns 1, -1 when there is no such queue, -2 when it is empty.
        """
        found = self._queue(queue)
        if found is None:
            return -1
        item = found.take()
        if item is None:
            run.ctx.pop(FETCHED + queue, None)
            return -2
        run.ctx[FETCHED + queue] = item
        return 1

    @script_function(routes=ALL)
    def mq_pv_free(self, run: Run, queue: str) -> int:
        """Forget the pair that `$mqk(queue)` and `$mqv(queue)` show."""
        if self._queue(queue) is None:
            return -1
        run.ctx.pop(FETCHED + queue, None)
        return 1

    @script_function(routes=ALL)
    def mq_size(self, run: Run, queue: str) -> int:
        """Return how many pairs are in a queue; -1 when it is empty, -2 when there is no such queue."""
        found = self._queue(queue)
        return -2 if found is None else len(found.items) or -1

    def _fetched(self, run: Run, name: str, part: int) -> Value:
        item = run.ctx.get(FETCHED + name)
        return str(item[part]) if isinstance(item, tuple) else None

    @variable("$mqk", name_arg=True)
    def mqk(self, run: Run, name: str, index: Index) -> Value:
        """The key of the pair that mq_fetch() took last from the queue; NULL without one."""
        return self._fetched(run, name, 0)

    @variable("$mqv", name_arg=True)
    def mqv(self, run: Run, name: str, index: Index) -> Value:
        """The value of the pair that mq_fetch() took last from the queue; NULL without one."""
        return self._fetched(run, name, 1)

    @variable("$mq_size", name_arg=True)
    def mq_size_variable(self, run: Run, name: str, index: Index) -> Value:
        """How many pairs are in the queue; NULL when there is no such queue."""
        found = self._queue(name)
        return None if found is None else len(found.items)

    # --- management

    def _known(self, name: str) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            raise MiError(404, "No such queue")
        return queue

    @mi_command("mqueue:get_sizes", aliases=("mq_get_sizes",))
    def mi_get_sizes(self) -> Json:
        """Show how many pairs are in each queue."""
        return {"Queue": [{"name": queue.name, "size": len(queue.items)} for queue in self.queues.values()]}

    @mi_command("mqueue:get_size", aliases=("mq_get_size",), params=(("name",),), types={"name": "string"})
    def mi_get_size(self, name: str) -> Json:
        """Show how many pairs are in a queue."""
        return {"Queue": {"name": name, "size": len(self._known(name).items)}}

    @mi_command(
        "mqueue:fetch",
        aliases=("mq_fetch",),
        params=(("name",), ("name", "limit")),
        types={"name": "string", "limit": "int"},
    )
    def mi_fetch(self, name: str, limit: int | None = None) -> Json:
        """Take the oldest pair out of a queue, or a list of up to `limit` pairs."""
        queue = self._known(name)
        if limit is None:
            item = queue.take()
            if item is None:
                raise MiError(404, "Empty queue")
            return {"Item": {"key": item[0], "value": item[1]}}
        if limit < 1:
            raise MiError(-32602, "Invalid params", "limit is 1 or more")
        taken: list[Json] = []
        while len(taken) < limit:
            item = queue.take()
            if item is None:
                break
            taken.append({"key": item[0], "value": item[1]})
        return taken
