"""Numbers for methods and headers, the spellings that are known, and reason phrases."""

from __future__ import annotations

from typing import Final

# Methods are bits, so that a set of them is one int.
M_INVITE: Final = 1
M_ACK: Final = 2
M_CANCEL: Final = 4
M_BYE: Final = 8
M_REGISTER: Final = 16
M_OPTIONS: Final = 32
M_SUBSCRIBE: Final = 64
M_NOTIFY: Final = 128
M_MESSAGE: Final = 256
M_INFO: Final = 512
M_PRACK: Final = 1024
M_UPDATE: Final = 2048
M_REFER: Final = 4096
M_PUBLISH: Final = 8192
M_OTHER: Final = 16384

# Method names are case-sensitive (RFC 3261 §7.1).
METHOD_IDS: Final = {
    "INVITE": M_INVITE,
    "ACK": M_ACK,
    "CANCEL": M_CANCEL,
    "BYE": M_BYE,
    "REGISTER": M_REGISTER,
    "OPTIONS": M_OPTIONS,
    "SUBSCRIBE": M_SUBSCRIBE,
    "NOTIFY": M_NOTIFY,
    "MESSAGE": M_MESSAGE,
    "INFO": M_INFO,
    "PRACK": M_PRACK,
    "UPDATE": M_UPDATE,
    "REFER": M_REFER,
    "PUBLISH": M_PUBLISH,
}


def method_number(name: str) -> int:
    """The bit of a method, M_OTHER for one that is not known here."""
    return METHOD_IDS.get(name, M_OTHER)


H_OTHER: Final = 0
H_VIA: Final = 1
H_FROM: Final = 2
H_TO: Final = 3
H_CALL_ID: Final = 4
H_CSEQ: Final = 5
H_CONTACT: Final = 6
H_ROUTE: Final = 7
H_RECORD_ROUTE: Final = 8
H_MAX_FORWARDS: Final = 9
H_EXPIRES: Final = 10
H_CONTENT_LENGTH: Final = 11
H_CONTENT_TYPE: Final = 12
H_AUTHORIZATION: Final = 13
H_PROXY_AUTHORIZATION: Final = 14
H_WWW_AUTHENTICATE: Final = 15
H_PROXY_AUTHENTICATE: Final = 16
H_REQUIRE: Final = 17
H_PROXY_REQUIRE: Final = 18
H_SUPPORTED: Final = 19
H_UNSUPPORTED: Final = 20
H_ALLOW: Final = 21
H_EVENT: Final = 22
H_USER_AGENT: Final = 23
H_SERVER: Final = 24
H_PATH: Final = 25
H_REASON: Final = 26
H_DIVERSION: Final = 27
H_RPID: Final = 28
H_PAI: Final = 29
H_PPI: Final = 30
H_PRIVACY: Final = 31
H_REFER_TO: Final = 32
H_SUBJECT: Final = 33
H_ACCEPT: Final = 34
H_MIN_EXPIRES: Final = 35
H_SESSION_EXPIRES: Final = 36
H_DATE: Final = 37
H_ORGANIZATION: Final = 38
H_PRIORITY: Final = 39
H_ACCEPT_ENCODING: Final = 40
H_ACCEPT_LANGUAGE: Final = 41
H_ALERT_INFO: Final = 42
H_AUTHENTICATION_INFO: Final = 43
H_CALL_INFO: Final = 44
H_CONTENT_DISPOSITION: Final = 45
H_CONTENT_ENCODING: Final = 46
H_CONTENT_LANGUAGE: Final = 47
H_ERROR_INFO: Final = 48
H_IN_REPLY_TO: Final = 49
H_MIME_VERSION: Final = 50
H_REPLY_TO: Final = 51
H_RETRY_AFTER: Final = 52
H_TIMESTAMP: Final = 53
H_WARNING: Final = 54
H_REFERRED_BY: Final = 55
H_REPLACES: Final = 56
H_ALLOW_EVENTS: Final = 57
H_SUBSCRIPTION_STATE: Final = 58
H_RACK: Final = 59
H_RSEQ: Final = 60
H_MIN_SE: Final = 61
H_SIP_ETAG: Final = 62
H_SIP_IF_MATCH: Final = 63
H_ACCEPT_CONTACT: Final = 64
H_REJECT_CONTACT: Final = 65
H_REQUEST_DISPOSITION: Final = 66
H_SERVICE_ROUTE: Final = 67
H_HISTORY_INFO: Final = 68
H_IDENTITY: Final = 69
H_JOIN: Final = 70
H_FLOW_TIMER: Final = 71
H_FEATURE_CAPS: Final = 72
H_MAX_BREADTH: Final = 73

# The usual spelling by kind; the place in this tuple is the kind.
HEADER_NAMES: Final = (
    "",
    "Via",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Contact",
    "Route",
    "Record-Route",
    "Max-Forwards",
    "Expires",
    "Content-Length",
    "Content-Type",
    "Authorization",
    "Proxy-Authorization",
    "WWW-Authenticate",
    "Proxy-Authenticate",
    "Require",
    "Proxy-Require",
    "Supported",
    "Unsupported",
    "Allow",
    "Event",
    "User-Agent",
    "Server",
    "Path",
    "Reason",
    "Diversion",
    "Remote-Party-ID",
    "P-Asserted-Identity",
    "P-Preferred-Identity",
    "Privacy",
    "Refer-To",
    "Subject",
    "Accept",
    "Min-Expires",
    "Session-Expires",
    "Date",
    "Organization",
    "Priority",
    "Accept-Encoding",
    "Accept-Language",
    "Alert-Info",
    "Authentication-Info",
    "Call-Info",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Error-Info",
    "In-Reply-To",
    "MIME-Version",
    "Reply-To",
    "Retry-After",
    "Timestamp",
    "Warning",
    "Referred-By",
    "Replaces",
    "Allow-Events",
    "Subscription-State",
    "RAck",
    "RSeq",
    "Min-SE",
    "SIP-ETag",
    "SIP-If-Match",
    "Accept-Contact",
    "Reject-Contact",
    "Request-Disposition",
    "Service-Route",
    "History-Info",
    "Identity",
    "Join",
    "Flow-Timer",
    "Feature-Caps",
    "Max-Breadth",
)

# RFC 3261 §7.3.3 and the registry of later RFCs.
COMPACT_NAMES: Final = {
    "a": H_ACCEPT_CONTACT,
    "b": H_REFERRED_BY,
    "c": H_CONTENT_TYPE,
    "d": H_REQUEST_DISPOSITION,
    "e": H_CONTENT_ENCODING,
    "f": H_FROM,
    "i": H_CALL_ID,
    "j": H_REJECT_CONTACT,
    "k": H_SUPPORTED,
    "l": H_CONTENT_LENGTH,
    "m": H_CONTACT,
    "o": H_EVENT,
    "r": H_REFER_TO,
    "s": H_SUBJECT,
    "t": H_TO,
    "u": H_ALLOW_EVENTS,
    "v": H_VIA,
    "x": H_SESSION_EXPIRES,
    "y": H_IDENTITY,
}


def _spellings() -> dict[str, int]:
    """Every spelling that is found without lower-casing first: usual, lower-case, upper-case, compact."""
    table: dict[str, int] = {}
    for kind in range(1, len(HEADER_NAMES)):
        name = HEADER_NAMES[kind]
        table[name] = kind
        table[name.lower()] = kind
        table[name.upper()] = kind
    for letter, kind in COMPACT_NAMES.items():
        table[letter] = kind
        table[letter.upper()] = kind
    table["Call-Id"] = H_CALL_ID
    table["Cseq"] = H_CSEQ
    return table


SPELLINGS: Final = _spellings()


def header_kind(name: str) -> int:
    """The kind of a header's name in any spelling, compact ones included; H_OTHER when it is not known."""
    kind = SPELLINGS.get(name)
    if kind is None:
        kind = SPELLINGS.get(name.lower(), H_OTHER)
    return kind


def header_name(kind: int) -> str:
    """The usual long spelling of a kind, "" for H_OTHER."""
    return HEADER_NAMES[kind]


REASONS: Final = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    424: "Bad Location Information",
    425: "Bad Alert Message",
    428: "Use Identity Header",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    436: "Bad Identity Info",
    437: "Unsupported Credential",
    438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    470: "Consent Needed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    555: "Push Notification Service Not Supported",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}


def reason_phrase(status: int) -> str:
    """The reason phrase of a status, of its class when the status itself has none (RFC 3261 §8.1.3.2)."""
    found = REASONS.get(status)
    if found is None:
        found = REASONS.get(status // 100 * 100, "")
        if not found:
            found = "Trying" if status < 200 else "Unknown"
    return found
