"""The diagram that `opensipspy demo` prints."""

from opensipspy.demo import Ladder


def test_arrows_run_between_their_columns_in_order_of_time() -> None:
    ladder = Ladder(["alice", "proxy", "bob"])
    ladder.note(10.25, "bob", "proxy", "200 OK")
    ladder.note(10.0, "alice", "proxy", "INVITE")
    ladder.note(10.125, "proxy", "bob", "INVITE")
    head, first, second, third = ladder.draw().split("\n")
    assert head.split() == ["alice", "proxy", "bob"]
    columns = [head.index(name) + len(name) // 2 for name in ("alice", "proxy", "bob")]
    assert first.startswith("  0.000")
    assert abs(first.index(">") - columns[1]) <= 2
    assert second.startswith("  0.125")
    assert abs(second.index(">") - columns[2]) <= 2
    assert "200 OK" in third
    assert columns[1] - 2 <= third.index("<") <= columns[1] + 2


def test_nothing_is_drawn_of_nothing() -> None:
    assert Ladder(["a", "b"]).draw() == ""
