"""From the command line's wishes to a running server, and to the exit status when it has ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import traceback
from typing import Final

from opensipspy.server.debugged import DebuggedServer
from opensipspy.server.debugger import Debugger
from opensipspy.server.errors import LoadError
from opensipspy.server.listening import ListenError
from opensipspy.server.load import Loaded, load
from opensipspy.server.logs import (
    L_DBG,
    L_NOTICE,
    NOTICE,
    Logs,
    Sink,
    SyslogSink,
    clamp,
    standard_error_sink,
)
from opensipspy.server.loops import new_event_loop
from opensipspy.server.notes import notes
from opensipspy.server.options import Options
from opensipspy.server.process import ProcessError, detach, find_ids, release_terminal, report_started
from opensipspy.server.server import Server

OK: Final = 0
FAILED: Final = 1
# Objects made and not yet freed before the youngest generation is searched; rounds of one before the next older one.
COLLECTOR_THRESHOLDS: Final = (20_000, 10, 20)

LOG: Final = logging.getLogger("opensipspy.core")


def launch(options: Options) -> int:
    """Check the script and end (`-c`), or run the server until it is stopped. Returns the exit status."""
    early = Logs(logging.getLogger("opensipspy"), [standard_error_sink()], L_NOTICE + options.verbosity)
    if options.debug_adapter:
        options.watch = Debugger()
    try:
        loaded = load(options)
    except LoadError as error:
        print(error.text, file=sys.stderr)
        return FAILED
    for warning in loaded.warnings:
        print(warning, file=sys.stderr)
    if options.check_only:
        try:
            find_ids(options.user, options.group)
            loaded.check_listen(options)
        except (ListenError, ProcessError) as error:
            print(f"opensipspy: {error}", file=sys.stderr)
            return FAILED
        print(f"{options.script}: the script is valid", file=sys.stderr)
        return OK
    settings = loaded.globals
    foreground = options.foreground or options.debug_mode or bool(settings.debug_mode)
    if not foreground:
        options.status_fd = detach()
    early.close()
    logs = open_logs(options, loaded)
    for note in options.notes:
        LOG.info("%s", note)
    for note in notes(loaded.globals):
        LOG.log(NOTICE, "%s", note)
    try:
        return run(options, loaded, logs)
    finally:
        logs.close()


def run(options: Options, loaded: Loaded, logs: Logs) -> int:
    """The server's life in this process."""

    def ready() -> None:
        # In the first idle turn: whoever waits for the server need not wait for this.
        loop.call_soon(spare_the_collector)
        if options.status_fd >= 0:
            report_started(options.status_fd)
            release_terminal(keep_stderr=bool(loaded.globals.stderror_enabled))

    loop = new_event_loop(options.poll_method or str(loaded.globals.poll_method))
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(loop_trouble)
    try:
        server = (DebuggedServer if options.debug_adapter else Server)(options, loaded, logs, loop)
        return loop.run_until_complete(server.main(ready))
    except Exception as error:  # noqa: BLE001 - the last resort of the process: one line, and the status
        LOG.critical("the server has failed: %s: %s", type(error).__name__, error)
        if logs.level >= L_DBG:
            traceback.print_exc()
        return FAILED
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def spare_the_collector() -> None:
    """Leave what the start made out of every later search for cycles, and search less often: no message makes one."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    gc.enable()


def loop_trouble(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What the event loop could not give to anybody becomes one line of the log."""
    error = context.get("exception")
    LOG.error("%s%s", context.get("message", "event loop"), f": {type(error).__name__}: {error}" if error else "")


def open_logs(options: Options, loaded: Loaded) -> Logs:
    """The sinks that script and command line ask for; with none of them, standard error."""
    settings = loaded.globals
    debug = options.debug_mode or bool(settings.debug_mode)
    level = L_DBG if debug else clamp(int(settings.log_level) + options.verbosity)
    sinks: list[Sink] = []
    if settings.stderror_enabled or options.log_stderr or debug:
        sinks.append(
            standard_error_sink(
                int(settings.stderror_level_filter), str(settings.stderror_log_format), stdout=bool(settings.log_stdout)
            )
        )
    if settings.syslog_enabled and not (options.log_stderr or debug):
        sinks.append(
            SyslogSink(
                str(settings.syslog_name or "opensipspy"),
                str(settings.syslog_facility),
                int(settings.syslog_level_filter),
                str(settings.syslog_log_format),
            )
        )
    logs = Logs(logging.getLogger("opensipspy"), sinks, level, str(settings.log_prefix or ""))
    logs.handler.colours = bool(settings.xlog_force_color)
    return logs
