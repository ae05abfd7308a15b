"""Seconds to load a script of 1,500 lines and many modules: `python -m bench.load_script`.

Cold and from the program cache. Each start is a process of its own that does what `opensipspy -f` does before the
sockets open: parse, import the modules, check, compile. Ends with status 1 when a cold load takes longer than
`--limit` seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from opensipspy.module import ModuleLoadError, find_module, module_names

ROUTES: Final = """
route[r{number}] {{
    xlog("L_DBG", "route {number} for $rU from $si:$sp ($ci)\\n");
    $var(i) = $var(i) + 1;
    $avp(caller) = $fU + "@" + $fd;
    if ($rU =~ "^[0-9]{{4}}$" && $fU != NULL && !($si == 10.0.0.0/8)) {{
        $var(x) = $(rU{{s.substr,0,2}});
        if ($var(x) == "12" || $hdr(X-Test) == "yes")
            append_hf("X-Route: r{number} $var(x) $ci\\r\\n");
        else
            $ru = "sip:" + $rU + "@example.org:5060";
    }}
    switch ($var(x)) {{
        case "10": setflag("A"); break;
        case "11": resetflag("A"); break;
        default: $avp(n) = $(avp(caller){{s.len}});
    }}
    if (is_method("INVITE|BYE") && !has_totag()) {{
        $var(t) = $Ts + 3600 * {number};
        remove_hf("X-Custom");
        t_on_failure("failed");
    }}
    while ($var(i) < 3) {{ $var(i) = $var(i) + 1; }}
    route(r{next}, "$rU", $var(x));
    return(1);
}}
"""
TAIL: Final = """
route { route(r0); exit; }
route[r%d] { return(1); }
failure_route[failed] { exit; }
"""
NEEDED: Final = ("signaling", "sl", "tm", "rr", "maxfwd", "textops", "sipmsgops")
# One process: the seconds of a load, on its own clock, imports included.
CHILD: Final = """
import sys, time
started = time.perf_counter()
from opensipspy.server.load import load
from opensipspy.server.options import Options
options = Options()
options.script = sys.argv[1]
loaded = load(options)
print(time.perf_counter() - started, len(loaded.modules), loaded.script.compiled)
"""


def loadable(most: int) -> list[str]:
    """Modules that this machine can import; those the script calls come first."""
    found = list(NEEDED)
    for name in module_names():
        if name in found or len(found) >= most:
            continue
        try:
            cls = find_module(name)
            instance = cls()
        except (ModuleLoadError, ImportError):
            continue
        if all(str(needed) in found or getattr(needed, "param", "") for needed in instance.requires):
            found.append(name)
    return found


def script(modules: list[str], lines: int) -> str:
    head = "log_level=1\nsocket=udp:127.0.0.1:5060\n" + "".join(f'loadmodule "{name}.so"\n' for name in modules)
    count = (lines - head.count("\n") - TAIL.count("\n")) // (ROUTES.count("\n")) or 1
    return head + "".join(ROUTES.format(number=n, next=n + 1) for n in range(count)) + TAIL % count


def start(path: Path, cache: Path) -> tuple[float, int, bool]:
    """One load in a new process: seconds, modules, whether the program came from the cache."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", CHILD, str(path)]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if made.returncode:
        raise SystemExit(made.stderr)
    seconds, count, cached = made.stdout.split()
    return float(seconds), int(count), cached == "True"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.load_script", description=__doc__)
    parser.add_argument("--lines", type=int, default=1500)
    parser.add_argument("--modules", type=int, default=60)
    parser.add_argument("--limit", type=float, default=2.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        path = Path(name) / "opensips.cfg"
        text = script(loadable(arguments.modules), arguments.lines)
        path.write_text(text, encoding="utf-8")
        start(path, Path(name) / "warm the file cache")
        cold, count, _ = start(path, Path(name) / "cache")
        warm, _, cached = start(path, Path(name) / "cache")
    lines = text.count("\n")
    print(f"{lines} lines, {count} modules: {cold:.2f} s cold, {warm:.2f} s from the program cache")
    if not cached:
        print("the second start did not use the program cache")
        return 1
    return 0 if cold <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
