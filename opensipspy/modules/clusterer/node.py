"""What is known of a node: its definition by the script, the table or other nodes, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from opensipspy.modules.clusterer.links import Link, LinkTimes

MOST_NODES: Final = 128
MOST_CLUSTERS: Final = 64
MOST_CAPABILITIES: Final = 64
LONGEST_NAME: Final = 64
LONGEST_URL: Final = 255
MOST_RETRIES: Final = 1000
DEFAULT_RETRIES: Final = 3
DEFAULT_PRIORITY: Final = 50
HIGHEST_ID: Final = (1 << 31) - 1
SEED: Final = "seed"
NEVER: Final = (-1, 0)
"""Number and time of an update before the first."""


class Definition:
    """A row of the table, or one `my_node_info` or `neighbor_node_info`. db_id: -1 for one that is in no table."""

    __slots__ = (
        "cluster_id",
        "db_id",
        "description",
        "enabled",
        "host",
        "node_id",
        "port",
        "priority",
        "retries",
        "seed",
        "sip_address",
        "url",
    )

    def __init__(
        self,
        cluster_id: int,
        node_id: int,
        url: str,
        *,
        enabled: bool = True,
        retries: int = DEFAULT_RETRIES,
        priority: int = DEFAULT_PRIORITY,
        sip_address: str = "",
        flags: str = "",
        description: str = "",
        db_id: int = -1,
    ) -> None:
        """Raises ValueError for what no node can be."""
        for name, value, highest in (
            ("cluster_id", cluster_id, HIGHEST_ID),
            ("node_id", node_id, HIGHEST_ID),
        ):
            if not 1 <= value <= highest:
                raise ValueError(f"{name} is {value}, it counts from 1")
        if not 0 <= retries <= MOST_RETRIES:
            raise ValueError(f"no_ping_retries is {retries}, not 0 to {MOST_RETRIES}")
        self.cluster_id = cluster_id
        self.node_id = node_id
        self.url = url
        self.host, self.port = parse_url(url)
        self.enabled = enabled
        self.retries = retries
        self.priority = priority
        self.sip_address = sip_address
        self.seed = flags.strip() == SEED
        self.description = description
        self.db_id = db_id


class Node:
    """A node of a cluster as it stands now. address: "" until its name is resolved."""

    __slots__ = (
        "address",
        "capabilities",
        "capability_order",
        "definition",
        "enabled",
        "link",
        "link_order",
        "neighbours",
        "node_id",
        "port",
        "topology_order",
        "waits_for_sync",
    )

    def __init__(self, definition: Definition, times: LinkTimes, default_port: int) -> None:
        self.definition = definition
        self.node_id = definition.node_id
        self.enabled = definition.enabled
        self.address = literal(definition.host)
        self.port = definition.port or default_port
        self.link = Link(times, definition.retries)
        # What it says: whom it has a link to, and which capabilities it has and are in order.
        self.neighbours: set[int] = set()
        self.capabilities: dict[str, bool] = {}
        # Number and time of its last updates.
        self.link_order = NEVER
        self.topology_order = NEVER
        self.capability_order = NEVER
        # Capabilities whose data it has asked for while there was no way to it.
        self.waits_for_sync: set[str] = set()


def parse_url(url: str) -> tuple[str, int]:
    """Host and port (0: none is named) of "bin:host:port". Raises ValueError."""
    text = url.strip()
    if not text or len(text) > LONGEST_URL or any(c.isspace() or c < " " for c in text):
        raise ValueError(f"{url!r} is no address of a node, as bin:192.0.2.1:5555 is one")
    head, colon, rest = text.partition(":")
    if colon and not head.isdigit() and not text.startswith("[") and head.isalpha():
        if head.lower() != "bin":
            raise ValueError(f"{url!r}: nodes are reached by bin: only")
        text = rest
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        port_text = after.removeprefix(":")
        if not bracket or (after and not after.startswith(":")):
            raise ValueError(f"{url!r} is no address of a node")
    else:
        host, _, port_text = text.partition(":")
    if not host:
        raise ValueError(f"{url!r} names no host")
    if not port_text:
        return host, 0
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 0 < int(port_text) < 65536):
        raise ValueError(f"{url!r}: {port_text!r} is no port")
    return host, int(port_text)


def literal(host: str) -> str:
    """The address that a host is, in its usual form; "" for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        return ""


def parse_properties(text: str, names: Mapping[str, str]) -> dict[str, str]:
    """The properties of "name=value, name=value" by what `names` calls them. Raises ValueError."""
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in names:
            raise ValueError(f"{name!r} is no property of a node; there are {', '.join(names)}")
        if not equals or not value:
            raise ValueError(f"{name} has no value")
        found[names[name]] = value
    return found


def number(properties: Mapping[str, str], name: str, default: int) -> int:
    """A property that is a number. Raises ValueError."""
    text = properties.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ValueError(f"{name} is {text!r}, no number")
    return int(text)
