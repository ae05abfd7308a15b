"""How messages find their transaction: the keys of RFC 3261 sections 17.1.3 and 17.2.3.

A reply finds its branch by the branch parameter that we made ourselves: `z9hG4bK` + hash + "." + label + "." + index.
"hash.label" is the key of one dict, index counts the branches. The label is random, so nobody who has not seen the
request can answer it.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Final

from opensipspy.sip import Message

COOKIE: Final = "z9hG4bK"
HASH_SIZE: Final = 65536
MAX_BRANCHES: Final = 64
_DIGITS: Final = tuple([f"{number:x}" for number in range(256)])
_TWO_DIGITS: Final = tuple([f"{number:02x}" for number in range(256)])


def call_hash(call_id: str) -> int:
    """The hash of a call, 0 to 65535: the same for all messages with one Call-ID."""
    return zlib.crc32(call_id.encode("utf-8", "surrogateescape")) & (HASH_SIZE - 1)


def hexadecimal(number: int) -> str:
    """A number below HASH_SIZE in hexadecimal; without the cost of formatting, for each transaction has one."""
    high = number >> 8
    return _DIGITS[high] + _TWO_DIGITS[number & 255] if high else _DIGITS[number]


def has_cookie(branch: str) -> bool:
    """Whether the sender of a branch parameter follows RFC 3261 and made it unique."""
    return len(branch) > len(COOKIE) and (branch.startswith(COOKIE) or branch[: len(COOKIE)].lower() == "z9hg4bk")


def server_key(msg: Message, method: str, ruri_matching: bool, via1_matching: bool) -> str:
    """The key of the server transaction that a request belongs to; `method` as if the request were that one.

    With the cookie: branch, sent-by and method (section 17.2.3). Without it, as RFC 2543 did: Call-ID, CSeq number,
    From tag and, as the settings say, Request-URI and topmost Via. The To tag of an ACK is compared by the caller.
    """
    via = msg.via
    branch = via.branch
    if has_cookie(branch):
        # A "\n" cannot be part of any of the values, so no two keys run into each other.
        return f"{branch}\n{via.host.lower()}\n{via.port}\n{method}"
    ruri = msg.ruri if ruri_matching else ""
    top = f"{via.transport}\n{via.host.lower()}\n{via.port}\n{branch}" if via1_matching else ""
    return f"{msg.call_id}\n{msg.cseq_number}\n{msg.from_tag}\n{ruri}\n{top}\n{method}"


def dialog_key(call_id: str, cseq: int, from_tag: str) -> str:
    """What the ACK for a 2xx shares with its INVITE (section 13.2.2.4)."""
    return f"{call_id}\n{cseq}\n{from_tag}"


def safe_label(msg: Message) -> str:
    """A label computed from the request: the same after a restart (`syn_branch` 0), 16 hexadecimal digits."""
    via = msg.via
    text = f"{msg.call_id}\n{msg.cseq_number}\n{msg.from_tag}\n{msg.ruri}\n{via.host}\n{via.port}\n{via.branch}"
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()[:16]


def branch_parameter(transaction_id: str, index: int) -> str:
    """The Via branch parameter of one branch."""
    return f"{COOKIE}{transaction_id}.{index}"


def split_branch(branch: str) -> tuple[str, int]:
    """(transaction id, branch index) of a branch parameter in our form; ("", 0) for any other."""
    if not branch.startswith(COOKIE):
        return "", 0
    dot = branch.rfind(".")
    tail = branch[dot + 1 :]
    if tail == "0" and dot >= 0:  # mostly the only one
        return branch[len(COOKIE) : dot], 0
    if dot < 0 or not tail.isascii() or not tail.isdigit() or len(tail) > 3:
        return "", 0
    return branch[len(COOKIE) : dot], int(tail)
