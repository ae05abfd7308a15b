"""What the command line asks of the server; every value here wins over the script's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opensipspy.script.probes import Watch


class Options:
    """script: path, "-" for standard input. check_only: 0 run, 1 `-c`, 2 `-C`. verbosity: how many `-d`.

    listen: `-l` values, instead of the script's sockets. arguments: `-o NAME=VALUE`. notes: flags that were accepted
    and have no effect here, each with the reason, for the log. argv: the command line as it was given.
    """

    def __init__(self) -> None:
        self.script = ""
        self.text: str | None = None
        self.check_only = 0
        self.foreground = False
        self.log_stderr = False
        self.debug_mode = False
        self.verbosity = 0
        self.check_via = False
        self.workdir = ""
        self.chroot = ""
        self.user = ""
        self.group = ""
        self.pid_file = ""
        self.pgid_file = ""
        self.preprocessor = ""
        self.advertised_address = ""
        self.receive_buffer_bytes = 0
        # "poll", "select", "epoll": how the event loop waits; "" as the script says.
        self.poll_method = ""
        self.listen: list[str] = []
        self.arguments: dict[str, str] = {}
        self.notes: list[str] = []
        self.argv: list[str] = []
        # Compiles the script so that somebody watches it (script/probes.py); None: for speed.
        self.watch: Watch | None = None
        # Where the debug adapter listens, "address:port" or "unix:path"; "" none. debug_wait: until a client is there.
        self.debug_adapter = ""
        self.debug_wait = False
        # Written to when the server has started or failed; below 0 when nobody waits.
        self.status_fd = -1
