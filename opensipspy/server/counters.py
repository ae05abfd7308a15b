"""The statistics of the core: plain counters, so that counting on the path of a message is one addition."""

from __future__ import annotations

from opensipspy.management import Counter, Statistics


class CoreCounters:
    """`core:` as the catalogue names them, and `server:` for what the C server has no name for."""

    def __init__(self, stats: Statistics) -> None:
        def core(name: str, help: str) -> Counter:
            return stats.counter("core", name, help=help)

        def server(name: str, help: str) -> Counter:
            return stats.counter("server", name, help=help)

        self.rcv_requests = core("rcv_requests", "Requests received.")
        self.rcv_replies = core("rcv_replies", "Replies received.")
        self.fwd_requests = core("fwd_requests", "Requests forwarded without a transaction.")
        self.fwd_replies = core("fwd_replies", "Replies forwarded.")
        self.drop_requests = core("drop_requests", "Requests dropped before the script ran.")
        self.drop_replies = core("drop_replies", "Replies dropped.")
        self.err_requests = core("err_requests", "Requests that are not valid.")
        self.err_replies = core("err_replies", "Replies that are not valid.")
        self.bad_uris = core("bad_URIs_rcvd", "URIs that could not be parsed.")
        self.bad_headers = core("bad_msg_hdr", "Messages whose headers could not be parsed.")
        self.slow_messages = core("slow_messages", "Messages that took longer than the threshold.")
        self.script_errors = server("script_errors", "Script runs that ended with an error.")
        self.internal_errors = server("internal_errors", "Mistakes of the server itself that were caught.")
        self.held_requests = server("held_requests", "Requests that waited for the script of an earlier one.")
        self.absorbed = server("absorbed_retransmissions", "Copies of requests whose script was still running.")
