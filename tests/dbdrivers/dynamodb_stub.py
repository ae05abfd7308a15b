"""The part of DynamoDB's HTTP interface that the driver uses, in a thread.

DynamoDB itself cannot be had, and moto, its usual stand-in, brings 500 MB. This one was written beside the driver from
Amazon's documents: it shows that requests are well formed and answers understood, not that DynamoDB agrees.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Item = dict[str, dict[str, str]]
MAX_ITEM = 400 * 1024


class Refused(Exception):
    """An answer with status 400."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class DynamodbStub:
    """A table with the key column "opensipskey"; status_of_next: HTTP status of the next answers, for outages."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.failing = 0
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=")
                operation = self.headers["X-Amz-Target"].removeprefix("DynamoDB_20120810.")
                try:
                    status, answer = 200, stub.answer(operation, body)
                except Refused as error:
                    kind = f"com.amazonaws.dynamodb.v20120810#{error.kind}"
                    status, answer = 400, {"__type": kind, "message": str(error)}
                if stub.failing:
                    status, answer = stub.failing, {"__type": "InternalServerError", "message": "try again"}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, group: str = "") -> str:
        name = f"dynamodb{':' if group else ''}{group}"
        return f"{name}://AKIATEST:s3cret@127.0.0.1:{self.port}/keys?key=opensipskey;val=opensipsval"

    def answer(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        if body["TableName"] != "keys":
            raise Refused("ResourceNotFoundException", "Requested resource not found")
        if operation == "DescribeTable":
            return {"Table": {"TableName": "keys", "TableStatus": "ACTIVE"}}
        key = (body.get("Key") or body["Item"])["opensipskey"]["S"]
        if not key:
            raise Refused("ValidationException", "a key attribute cannot contain an empty string")
        with self._lock:
            return self._work(operation, key, body)

    def _work(self, operation: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
        item = self.items.get(key)
        names = body.get("ExpressionAttributeNames", {})
        values = body.get("ExpressionAttributeValues", {})
        if operation == "GetItem":
            assert body["ConsistentRead"] is True
            return {"Item": item} if item is not None else {}
        if operation == "PutItem":
            if len(json.dumps(body["Item"])) > MAX_ITEM:
                raise Refused("ValidationException", "Item size has exceeded the maximum allowed size")
            self.items[key] = body["Item"]
            return {}
        condition = body.get("ConditionExpression", "")
        ttl = int(item["ttl"]["N"]) if item is not None and "ttl" in item else None
        now = int(values.get(":now", {}).get("N", 0))
        holds = {
            "": True,
            "attribute_not_exists(#t) OR #t > :now": ttl is None or ttl > now,
            "#t <= :now": ttl is not None and ttl <= now,
        }[condition]
        if not holds:
            raise Refused("ConditionalCheckFailedException", "The conditional request failed")
        if operation == "DeleteItem":
            self.items.pop(key, None)
            return {"Attributes": item} if item is not None and body.get("ReturnValues") == "ALL_OLD" else {}
        assert operation == "UpdateItem"
        assert body["UpdateExpression"] in ("ADD #v :n", "ADD #v :n SET #t = :t")
        new = dict(item or {"opensipskey": {"S": key}})
        column = names["#v"]
        if "N" not in new.get(column, {"N": "0"}):
            raise Refused("ValidationException", "An operand in the update expression has an incorrect data type")
        new[column] = {"N": str(int(new.get(column, {"N": "0"})["N"]) + int(values[":n"]["N"]))}
        if ":t" in values:
            new[names["#t"]] = values[":t"]
        self.items[key] = new
        return {"Attributes": {column: new[column]}}
