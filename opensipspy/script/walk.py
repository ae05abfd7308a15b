"""Walks over the tree of a route: every node, the calls in it, the routes it calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from opensipspy.script import tree


def children_of(node: tree.Node) -> Iterator[tree.Node]:
    """The nodes right below one."""
    # The slots of a node's own class: all its fields but the place.
    for name in node.__slots__:
        value = getattr(node, name)
        if isinstance(value, tree.Node):
            yield value
        elif isinstance(value, tuple):
            yield from (item for item in value if isinstance(item, tree.Node))


def nodes_of(root: object) -> Iterator[tree.Node]:
    """A node or a tuple of nodes and everything below, in the order of the text."""
    if isinstance(root, tree.Node):
        yield root
        for name in root.__slots__:
            value = getattr(root, name)
            if isinstance(value, tree.Node | tuple):
                yield from nodes_of(value)
    elif isinstance(root, tuple) and not hasattr(root, "_fields"):
        for item in root:
            yield from nodes_of(item)


def statements_of(body: Iterable[tree.Stm]) -> Iterator[tree.Node]:
    """Every node below these statements."""
    for statement in body:
        yield from nodes_of(statement)


def calls_of(body: Iterable[tree.Stm]) -> Iterator[tree.Call]:
    """Every function call that the route itself waits for; those of launch() run beside it."""
    launched = {id(node.call) for node in statements_of(body) if isinstance(node, tree.Launch)}
    for node in statements_of(body):
        if isinstance(node, tree.Call) and id(node) not in launched:
            yield node


def route_calls_of(body: Iterable[tree.Stm]) -> Iterator[tree.Text | tree.Var]:
    """The name of each route that is called."""
    for node in statements_of(body):
        if isinstance(node, tree.RouteCall):
            yield node.name
        elif isinstance(node, tree.Async):
            yield node.route
