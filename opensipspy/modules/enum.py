"""ENUM: telephone numbers as domain names, whose NAPTR records say where they can be reached (RFC 6116).

+49 30 123 is asked for as 3.2.1.0.3.9.4.e164.arpa. Each record of a service that is looked for has an expression that
makes a URI of the number. The records come from strangers: what is no URI, takes too long or is too much is left out.
"""

from __future__ import annotations

from typing import Annotated, Final

from opensipspy.module import Fixup, LocateError, Module, Naptr, Param, ParamError, script_function
from opensipspy.module.naptr import apply_rule
from opensipspy.script.kinds import REQUEST
from opensipspy.script.patterns import PatternCache
from opensipspy.script.run import Branch, Run
from opensipspy.sip import ParseError, Uri, parse_uri

LEAST_DIGITS: Final = 2
MOST_DIGITS: Final = 15
MOST_RECORDS: Final = 64
MOST_URIS: Final = 12
"""As many destinations may one number have; more would let its owner multiply our requests."""
LONGEST_NAME: Final = 253
LONGEST_LABEL: Final = 63
LONGEST_URI: Final = 512
# q of the best URI and the step to the next in order and preference, in thousandths.
HIGHEST_Q: Final = 990
STEP_Q: Final = 10
ALGORITHMS: Final = ("cc", "txt")
# ITU-T E.164: country codes of one and of two digits; all others have three.
ONE_DIGIT_CODES: Final = frozenset("17")
TWO_DIGIT_CODES: Final = frozenset(
    str(code)
    for codes in ((20, 27, 36, 39, 40, 41, 81, 82, 84, 86, 98), range(30, 35), range(43, 50), range(51, 59))
    for code in codes
) | frozenset(str(code) for codes in (range(60, 67), range(90, 96)) for code in codes)


def number_digits(text: str) -> str | None:
    """The digits of an E.164 number with its plus; None for anything else."""
    digits = text[1:]
    if text[:1] != "+" or not LEAST_DIGITS <= len(digits) <= MOST_DIGITS:
        return None
    return digits if digits.isascii() and digits.isdigit() else None


def reversed_name(digits: str) -> str:
    """ "123" as "3.2.1."."""
    return "".join(f"{digit}." for digit in reversed(digits))


def country_code_length(digits: str) -> int:
    """How many digits of a number are its country code."""
    if digits[0] in ONE_DIGIT_CODES:
        return 1
    return 2 if digits[:2] in TWO_DIGIT_CODES else 3


def isn_name(user: str) -> str | None:
    """The name of an ITAD subscriber number: "56*1212" as "6.5.1212."; None when it is none."""
    number, star, itad = user.removeprefix("+").partition("*")
    parts = (number, itad)
    if not star or not all(part.isascii() and part.isdigit() and len(part) <= MOST_DIGITS for part in parts):
        return None
    return f"{reversed_name(number)}{itad}."


def is_name(name: str) -> bool:
    """Whether a name server can be asked for it."""
    labels = name.removesuffix(".").split(".")
    return len(name) <= LONGEST_NAME and all(0 < len(label) <= LONGEST_LABEL and label.isascii() for label in labels)


def checked_suffix(text: str) -> str:
    """A suffix argument of the script; raises ValueError."""
    text = text.strip().strip(".")
    if not text or not is_name(text):
        raise ValueError(f'"{text}" is no domain')
    return text + "."


class Wanted:
    """Which services fit: "" for `sip`, "voice" for `voice:sip`, "+sip+voice:sip" for any of several."""

    __slots__ = ("_any", "_whole")

    def __init__(self, text: str) -> None:
        service = text.strip().lower()
        self._any: frozenset[str] = frozenset()
        self._whole: frozenset[str] = frozenset()
        if service.startswith("+"):
            self._any = frozenset(filter(None, service.split("+")))
            if not self._any:
                raise ValueError(f'"{text}" names no service')
        elif service:
            self._whole = frozenset((f"e2u+{service}:sip",))
        else:
            # RFC 2916 had it the other way round.
            self._whole = frozenset(("e2u+sip", "sip+e2u"))

    def fits(self, record: Naptr) -> bool:
        """Whether a terminal record that makes a URI is of a service that is looked for (RFC 6116 §3.4)."""
        if record.flags.lower() != "u":
            return False
        service = record.service.lower()
        if self._whole:
            return service in self._whole
        protocol, _, services = service.partition("+")
        return protocol == "e2u" and not self._any.isdisjoint(services.split("+"))


def uri_of(text: str) -> Uri | None:
    """A URI that requests can be sent to; None for anything else."""
    if len(text) > LONGEST_URI:
        return None
    try:
        uri = parse_uri(text)
    except ParseError:
        return None
    if uri.scheme not in ("sip", "sips", "tel") or any(char in '<>"\r\n\t ' for char in text):
        return None
    return uri


Suffix = Annotated[str | None, Fixup(checked_suffix, "string")]
Service = Annotated[Wanted | None, Fixup(Wanted, "string")]
SIP: Final = ""


class Enum(Module):
    """Find the URIs of telephone numbers in the DNS."""

    name = "enum"

    domain_suffix = Param(str, "e164.arpa.", "Domain under which enum_query() and is_from_user_enum() look.")
    tel_uri_params = Param(str, "", 'Parameters that each URI found gets, such as ";npdi".')
    i_enum_suffix = Param(str, "e164.arpa.", "Domain under which i_enum_query() looks.")
    isn_suffix = Param(str, "freenum.org.", "Domain under which isn_query() looks.")
    branchlabel = Param(str, "i", "Label where the infrastructure tree leaves the other one.")
    bl_algorithm = Param(str, "cc", "Where that label stands: cc behind the country code, txt where a TXT record says.")

    async def start(self) -> None:
        self._patterns = PatternCache()
        self._sip = Wanted(SIP)
        for param in ("domain_suffix", "i_enum_suffix", "isn_suffix"):
            try:
                setattr(self, param, checked_suffix(getattr(self, param)))
            except ValueError as error:
                raise ParamError(self.name, param, str(error)) from error
        if not is_name(self.branchlabel) or "." in self.branchlabel:
            raise ParamError(self.name, "branchlabel", f'"{self.branchlabel}" is no label of a domain name')
        if self.bl_algorithm not in ALGORITHMS:
            raise ParamError(self.name, "bl_algorithm", f'"{self.bl_algorithm}" is none of {", ".join(ALGORITHMS)}')
        params = self.tel_uri_params
        if params and (not params.startswith(";") or uri_of(f"sip:a@b{params}") is None):
            raise ParamError(self.name, "tel_uri_params", "is to be of the form ;name=value")

    # -- functions -----------------------------------------------------------------------------------------------

    @script_function(routes=REQUEST)
    async def enum_query(
        self, run: Run, suffix: Suffix = None, service: Service = None, number: str | None = None
    ) -> int:
        """Replace the Request-URI by the best URI of a number, and add branches for the others with lower q.

        number: "+" and digits, the user of the Request-URI when not given. suffix: the domain to look under. service:
        "" for sip, "voice" for voice:sip, "+sip+voice:sip" for several. Returns 1, or -1 when nothing was found.
        """
        user = self._user(run) if number is None else number
        digits = number_digits(user)
        if digits is None:
            self.core.log.info("enum: %.40r is no E.164 number", user)
            return -1
        return await self._query(run, user, reversed_name(digits) + (suffix or self.domain_suffix), service)

    @script_function(routes=REQUEST)
    async def i_enum_query(self, run: Run, suffix: Suffix = None, service: Service = None) -> int:
        """As enum_query(), in the infrastructure tree of carriers (RFC 5526)."""
        user = self._user(run)
        digits = number_digits(user)
        if digits is None:
            self.core.log.info("enum: %.40r is no E.164 number", user)
            return -1
        suffix = suffix or self.i_enum_suffix
        at = await self._branch_location(digits, suffix)
        name = f"{reversed_name(digits[at:])}{self.branchlabel}.{reversed_name(digits[:at])}{suffix}"
        return await self._query(run, user, name, service)

    @script_function(routes=REQUEST)
    async def isn_query(self, run: Run, suffix: Suffix = None, service: Service = None) -> int:
        """As enum_query(), for a user NUMBER*ITAD of the Request-URI (ITAD subscriber numbers, RFC 3872)."""
        user = self._user(run)
        name = isn_name(user)
        if name is None:
            self.core.log.info("enum: %.40r is no ITAD subscriber number", user)
            return -1
        return await self._query(run, user, name + (suffix or self.isn_suffix), service)

    @script_function(routes=REQUEST)
    async def is_from_user_enum(self, run: Run, suffix: Suffix = None, service: Service = None) -> int:
        """Whether the number in From leads by ENUM to a host that the request came from. Returns 1 or -1."""
        try:
            user = parse_uri(run.msg.from_.uri).user
        except ParseError:
            return -1
        digits = number_digits(user)
        if digits is None:
            return -1
        source = run.msg.source.address
        for text, _ in await self._uris(user, reversed_name(digits) + (suffix or self.domain_suffix), service):
            uri = uri_of(text)
            if uri is None or uri.scheme == "tel":
                continue
            try:
                found = self.core.locate(text)
                targets = found if isinstance(found, list) else await self.core.wait(found)
            except LocateError:
                continue
            if any(target.peer.address == source for target in targets):
                return 1
        return -1

    # -- details -------------------------------------------------------------------------------------------------

    def _user(self, run: Run) -> str:
        try:
            return parse_uri(run.ruri).user
        except ParseError:
            return ""

    async def _branch_location(self, digits: str, suffix: str) -> int:
        """How many digits of a number stand behind the branch label, as a name is written."""
        length = country_code_length(digits)
        if self.bl_algorithm == "txt":
            try:
                texts = await self.core.txt(f"{self.branchlabel}.{reversed_name(digits[:length])}{suffix}".rstrip("."))
            except LocateError as error:
                self.core.log.info("enum: %s", error)
                texts = []
            for text in texts[:1]:
                if text.isascii() and text.isdigit() and len(text) <= 2 and 0 < int(text) <= len(digits):
                    return int(text)
        return min(length, len(digits))

    async def _query(self, run: Run, user: str, name: str, service: Wanted | None) -> int:
        found = await self._uris(user, name, service)
        if not found:
            return -1
        q = HIGHEST_Q
        previous: tuple[int, int] | None = None
        for place, (uri, rank) in enumerate(found):
            if previous is not None and rank > previous:
                q = max(0, q - STEP_Q)
            previous = rank
            if place == 0:
                run.ruri = uri
                run.q = q
            else:
                run.branches.append(Branch(uri, q=q))
        return 1

    async def _uris(self, user: str, name: str, service: Wanted | None) -> list[tuple[str, tuple[int, int]]]:
        """URIs with the order and preference of their records, the best first (RFC 3403 §4.1)."""
        if not is_name(name):
            return []
        try:
            records = await self.core.naptr(name.rstrip("."))
        except LocateError as error:
            self.core.log.info("enum: %s", error)
            return []
        wanted = service or self._sip
        found: list[tuple[str, tuple[int, int]]] = []
        for record in sorted(records[:MOST_RECORDS], key=lambda record: (record.order, record.preference)):
            if not wanted.fits(record):
                continue
            try:
                text = apply_rule(record.regexp, user, self._patterns)
            except TimeoutError:
                # Each such record would hold up all other calls: none of this publisher's is worth that.
                self.core.log.warning("enum: %s has an expression that takes too long", name)
                return []
            uri = uri_of(text) if text is not None else None
            if text is None or uri is None:
                self.core.log.info("enum: %s has a record that makes no URI: %.100r", name, record.regexp)
                continue
            found.append((self._with_params(text, uri), (record.order, record.preference)))
            if len(found) >= MOST_URIS:
                break
        return found

    def _with_params(self, text: str, uri: Uri) -> str:
        """The URI with tel_uri_params, which go before its headers."""
        if not self.tel_uri_params:
            return text
        if not uri.headers:
            return text + self.tel_uri_params
        before, _, headers = text.rpartition("?")
        return f"{before}{self.tel_uri_params}?{headers}"
