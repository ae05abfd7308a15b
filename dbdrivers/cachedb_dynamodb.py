"""Amazon DynamoDB, through aiobotocore.

The URL is `dynamodb:group://access:secret@host:port/table?region=R;key=K;val=V`; without a host the region decides, and
without an account the environment and files of the AWS SDK do. The table's key is a text column (`opensipskey`), the
value is in `opensipsval`, and the time when an item expires in `ttl`, which the table's time-to-live setting should
name: DynamoDB removes expired items within days, and here they are gone at once. An item has at most 400 KB.

Only a stand-in could be had for the tests, which was written from Amazon's documents beside this driver.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from opensipspy.cachedb import CacheDbDriver, CacheError, CacheUrl, Limits, RemoteCacheDb, to_counter
from opensipspy.module import Module, Param, StartError

DEFAULT_KEY: Final = "opensipskey"
DEFAULT_VALUE: Final = "opensipsval"
EXPIRES: Final = "ttl"
TIMEOUT_S: Final = 5.0
CONNECTIONS: Final = 20
MAX_ITEM: Final = 400 * 1024
"""Octets; with larger ones the HTTP client would also hold up the event loop."""
OPTIONS: Final = frozenset({"key", "region", "val"})
FAR_REGION: Final = "us-east-1"
"""Signs requests to a host that the URL names; such a server takes any."""
CONDITION_FAILED: Final = "ConditionalCheckFailedException"
NEEDS: Final = "cachedb_dynamodb needs the Python package aiobotocore: pip install 'opensipspy[dynamodb]'"


class DynamodbStore(RemoteCacheDb):
    """A table behind a URL."""

    def __init__(self, url: CacheUrl, limits: Limits, wall: Callable[[], float]) -> None:
        super().__init__(url, limits)
        options = options_of(url)
        self._wall = wall
        self._table = url.database
        self._key_column = options.get("key") or DEFAULT_KEY
        self._value_column = options.get("val") or DEFAULT_VALUE
        self._region = options.get("region", "")
        self._stack: AsyncExitStack | None = None
        self._client: Any = None
        self._errors: Any = None

    # --- the client

    async def open_client(self) -> None:
        session = importlib.import_module("aiobotocore.session").get_session()
        config = importlib.import_module("aiobotocore.config").AioConfig(
            connect_timeout=self.limits.connect_s,
            read_timeout=self.limits.query_s,
            max_pool_connections=CONNECTIONS,
            retries={"max_attempts": 0},
        )
        self._errors = importlib.import_module("botocore.exceptions")
        settings: dict[str, Any] = {"region_name": self._region or (FAR_REGION if self.url.host else None)}
        if self.url.host:
            host = f"[{self.url.host}]" if ":" in self.url.host else self.url.host
            settings["endpoint_url"] = f"http://{host}" + (f":{self.url.port}" if self.url.port else "")
        if self.url.user:
            settings |= {"aws_access_key_id": self.url.user, "aws_secret_access_key": self.url.password}
        self._stack = AsyncExitStack()
        self._client = await self._stack.enter_async_context(
            session.create_client("dynamodb", config=config, **settings)
        )
        await self.greet()

    async def close_client(self) -> None:
        stack, self._stack, self._client = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def greet(self) -> None:
        await self._live.describe_table(TableName=self._table)

    @property
    def _live(self) -> Any:
        if self._client is None:
            raise ConnectionError("the connection was closed")
        return self._client

    def explain(self, error: Exception) -> CacheError | None:
        if isinstance(error, self._errors.ClientError):
            details = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            throttled = details.get("Code") in ("ProvisionedThroughputExceededException", "ThrottlingException")
            return CacheError(
                f"{self.url}: {details.get('Code', '')}"[:400],  # its message may hold what was refused
                transient=status >= 500 or throttled,
            )
        text = f"{self.url}: {' '.join(str(error).split())[:300] or type(error).__name__}"
        if isinstance(error, self._errors.ParamValidationError | ValueError | UnicodeError):
            return CacheError(f"{self.url}: {type(error).__name__}")
        if isinstance(error, self._errors.BotoCoreError | OSError):
            return CacheError(text, transient=True)
        return None

    def _code(self, error: Any) -> str:
        return str(error.response.get("Error", {}).get("Code", ""))

    # --- the contract

    def _key(self, key: str) -> dict[str, dict[str, str]]:
        return {self._key_column: {"S": self._checked(key)}}

    def _checked(self, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise CacheError(f"{self.url}: DynamoDB keeps text, and these octets are none") from None
        return text

    async def _value(self, key: str) -> str | None:
        name = self._key(key)
        answer = await self.ask(
            lambda: self._live.get_item(TableName=self._table, Key=name, ConsistentRead=True), "GetItem"
        )
        item = answer.get("Item")
        if item is None:
            return None
        expires = item.get(EXPIRES, {}).get("N")
        if expires is not None and float(expires) <= self._wall():
            return None
        value = item.get(self._value_column, {})
        found = value.get("S", value.get("N"))
        return None if found is None else str(found)

    async def fetch(self, key: str) -> str | None:
        return await self._value(key)

    async def fetch_counter(self, key: str) -> int | None:
        value = await self._value(key)
        return None if value is None else to_counter(value)

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        name, text = self._key(key), self._checked(str(value))
        if len(key.encode()) + len(text.encode()) > MAX_ITEM:
            raise CacheError(f"{self.url}: an item has at most {MAX_ITEM >> 10} KB")
        item: dict[str, dict[str, str]] = {**name, self._value_column: {kind_of(text): text}}
        if expire_s > 0:
            item[EXPIRES] = {"N": str(int(self._wall()) + expire_s)}
        await self.ask(lambda: self._live.put_item(TableName=self._table, Item=item), "PutItem")

    async def remove(self, key: str) -> bool:
        name = self._key(key)
        answer = await self.ask(
            lambda: self._live.delete_item(TableName=self._table, Key=name, ReturnValues="ALL_OLD"), "DeleteItem"
        )
        return bool(answer.get("Attributes"))

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        name = self._key(key)

        async def work() -> int:
            now = int(self._wall())
            values = {":n": {"N": str(amount)}, ":now": {"N": str(now)}}
            change = "ADD #v :n"
            if expire_s > 0:
                change += " SET #t = :t"
                values[":t"] = {"N": str(now + expire_s)}
            for last in (False, True):
                try:
                    answer = await self._live.update_item(
                        TableName=self._table,
                        Key=name,
                        UpdateExpression=change,
                        ConditionExpression="attribute_not_exists(#t) OR #t > :now",
                        ExpressionAttributeNames={"#v": self._value_column, "#t": EXPIRES},
                        ExpressionAttributeValues=values,
                        ReturnValues="UPDATED_NEW",
                    )
                except self._errors.ClientError as error:
                    if last or self._code(error) != CONDITION_FAILED:
                        raise
                    await self._forget_expired(name, now)
                else:
                    return to_counter(answer["Attributes"][self._value_column]["N"])
            raise CacheError(f"{self.url}: the counter expires all the time", transient=True)

        return await self.ask(work, "UpdateItem", repeatable=False)

    async def _forget_expired(self, name: dict[str, dict[str, str]], now: int) -> None:
        """Remove an item that DynamoDB has not removed yet."""
        try:
            await self._live.delete_item(
                TableName=self._table,
                Key=name,
                ConditionExpression="#t <= :now",
                ExpressionAttributeNames={"#t": EXPIRES},
                ExpressionAttributeValues={":now": {"N": str(now)}},
            )
        except self._errors.ClientError as error:
            if self._code(error) != CONDITION_FAILED:
                raise  # otherwise another one was quicker


class CachedbDynamodb(CacheDbDriver, Module):
    """Keep keys and values in Amazon DynamoDB. Tested with a stand-in only."""

    name = "cachedb_dynamodb"
    schemes = ("dynamodb",)

    cachedb_url = Param(
        str, None, "dynamodb:group://access:secret@host:port/table?region=R;key=K;val=V.", repeated=True, func=True
    )

    async def start(self) -> None:
        if importlib.util.find_spec("aiobotocore") is None:
            raise StartError(NEEDS)
        await asyncio.to_thread(importlib.import_module, "aiobotocore.session")
        await self.connect_all(self.core.cachedb)

    def check_url(self, url: CacheUrl) -> None:
        options = options_of(url)
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise CacheError(f"no such option: {unknown[0]}; there are {', '.join(sorted(OPTIONS))}")
        if not url.database:
            raise CacheError("the path of a DynamoDB URL is the table")
        if not url.host and not options.get("region"):
            raise CacheError("a DynamoDB URL names a host or region=")

    def open_store(self, url: CacheUrl) -> DynamodbStore:
        self.check_url(url)
        return DynamodbStore(url, Limits(TIMEOUT_S, TIMEOUT_S), self.core.time)


def options_of(url: CacheUrl) -> dict[str, str]:
    """`key=K;val=V`: the manual separates them by semicolons."""
    found: dict[str, str] = {}
    for name, value in url.options.items():
        for part in f"{name}={value}".split(";"):
            word, _, rest = part.partition("=")
            found[word.strip()] = rest.strip()
    return found


def kind_of(text: str) -> str:
    """The type of a value: what is written as DynamoDB writes numbers can be counted."""
    digits = text.removeprefix("-")
    plain = digits.isascii() and digits.isdigit() and len(digits) < 20
    return "N" if plain and (digits == "0" or not digits.startswith("0")) and text != "-0" else "S"
