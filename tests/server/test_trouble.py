"""What the log says of a script that fails on a call."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensipspy.server.trouble import describe_failure, script_place, script_routes
from tests.script.lab import Lab
from tests.server.house import House, Peer, free_port, request
from tests.server.test_reload import HEAD, reloading

TEXT = """route {
  route(outer);
}
route[outer] {

  if (later(1)) route(inner);
}
route[inner] {
  breaks();
}
"""


def test_a_failure_tells_every_route_on_the_way_with_its_line() -> None:
    with pytest.raises(RuntimeError) as raised:
        Lab().run(TEXT)
    error = raised.value
    assert script_place(error) == "test.cfg:9"
    assert script_routes(error) == "route[inner] (test.cfg:9) < route[outer] (test.cfg:6) < route (test.cfg:2)"
    assert describe_failure(error).startswith("test.cfg:9: RuntimeError: the function broke [")


def test_an_error_outside_of_a_script_has_no_routes() -> None:
    assert script_routes(ValueError("x")) == ""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_one_record_has_place_routes_and_call(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    text = HEAD.format(port=port) + 'route {\n\troute(answer);\n}\nroute[answer] {\n\tsl_send_reply(200, "OK");\n}\n'
    first = HEAD.count("\n") + 1

    async def scene(house: House, write: object) -> None:
        def broken(*args: object) -> int:
            raise KeyError("lost")

        environment = house.core.program.main.fn.__globals__
        slot = next(name for name, recipe in house.core.program.image.recipes.items() if recipe[0] == "call")
        monkeypatch.setitem(environment, slot, broken)
        with Peer(port) as peer:
            peer.send(request(call_id="call-17"))
            assert (await peer.receive()).startswith("SIP/2.0 500 ")
        (line,) = [line for line in house.log if "KeyError" in line]
        assert f"opensips.cfg:{first + 4}: KeyError" in line
        path = tmp_path / "opensips.cfg"
        assert f"in route[answer] ({path}:{first + 4}) < route ({path}:{first + 1}), Call-ID call-17" in line

    reloading(loop, tmp_path, text, scene)
