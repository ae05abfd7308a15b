"""The tables of the cluster: its nodes, and bridges to other clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opensipspy.db import Column, DbValue, Index, Table
from opensipspy.module.table_cache import cell_int, cell_text
from opensipspy.modules.clusterer.node import HIGHEST_ID, MOST_RETRIES, Definition

CLUSTERER_TABLE: Final = Table(
    "clusterer",
    4,
    (
        Column("id", "int", 10, primary=True, autoincrement=True),
        Column("cluster_id", "int", 10),
        Column("node_id", "int", 10),
        Column("url", "string", 64),
        Column("state", "int", 1, default="1"),
        Column("no_ping_retries", "int", 10, default="3"),
        Column("priority", "int", 10, default="50"),
        Column("sip_addr", "string", 64, null=True),
        Column("flags", "string", 64, null=True),
        Column("description", "string", 64, null=True),
    ),
    (Index("clusterer_idx", ("cluster_id", "node_id"), unique=True),),
)
BRIDGE_TABLE: Final = Table(
    "clusterer_bridge",
    1,
    (
        Column("id", "int", 10, primary=True, autoincrement=True),
        Column("cluster_a", "int", 10),
        Column("cluster_b", "int", 10),
        Column("send_shtag", "string", 32),
        Column("dst_node_csv", "text", null=True),
    ),
    (Index("clusterer_bridge_idx", ("cluster_a", "cluster_b"), unique=True),),
)
BRIDGE_COLUMNS: Final = ("cluster_a", "cluster_b", "send_shtag", "dst_node_csv")
MOST_ROWS: Final = 4096


def definition_of(row: Sequence[DbValue]) -> Definition:
    """A node from a row: id, cluster_id, node_id, url, state, no_ping_retries, priority, sip_addr, flags, description.

    Raises ValueError.
    """
    return Definition(
        cell_int(row[1], "cluster_id", 1, HIGHEST_ID),
        cell_int(row[2], "node_id", 1, HIGHEST_ID),
        cell_text(row[3], "url"),
        enabled=bool(cell_int(row[4], "state", 0, HIGHEST_ID)),
        retries=cell_int(row[5], "no_ping_retries", 0, MOST_RETRIES),
        priority=cell_int(row[6], "priority", -HIGHEST_ID, HIGHEST_ID),
        sip_address=cell_text(row[7], "sip_addr", null=""),
        flags=cell_text(row[8], "flags", null=""),
        description=cell_text(row[9], "description", null=""),
        db_id=cell_int(row[0], "id", -HIGHEST_ID, HIGHEST_ID),
    )
