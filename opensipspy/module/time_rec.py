"""Time recurrences as OpenSIPS scripts and tables write them: a line of RFC 2445 fields, joined by `&`, `/` and `!`.

    timezone | dtstart | dtend | duration | freq | until | interval | byday | bymday | byyday | byweekno | bymonth

The timezone may be left out, and so may empty fields at the end. An instance lasts from `dtstart` to `dtend` (or for
`duration`); with `freq` it comes back within every day, week, month or year, by the shortest unit that the fields name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

HIGHEST_LENGTH: Final = 4096
HIGHEST_NESTING: Final = 32
DAY: Final = 86400
DAILY: Final = "DAILY"
WEEKLY: Final = "WEEKLY"
MONTHLY: Final = "MONTHLY"
YEARLY: Final = "YEARLY"
UNIT_SECONDS: Final = {DAILY: DAY, WEEKLY: 7 * DAY, MONTHLY: 31 * DAY, YEARLY: 366 * DAY}
WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
FIELDS: Final = 12
DATE_TIME: Final = re.compile(r"([0-9]{8})(?:T([0-9]{6})(Z?))?\Z")
DURATION: Final = re.compile(
    r"\+?P(?:([0-9]{1,6})W)?(?:([0-9]{1,6})D)?(?:T(?:([0-9]{1,8})H)?(?:([0-9]{1,8})M)?(?:([0-9]{1,8})S)?)?\Z"
)
BY_DAY: Final = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)\Z")

Check = Callable[[float], bool]
"""Whether a moment, in seconds since 1970, is within the recurrence."""


class TimeRecError(ValueError):
    """The text is no time recurrence."""


class Recurrence:
    """One time recurrence without operators."""

    def __init__(self, text: str) -> None:
        fields = [field.strip() for field in text.strip().split("|")]
        if fields[0][:1].isdigit():
            fields.insert(0, "")
        if len(fields) > FIELDS:
            raise TimeRecError(f"{len(fields)} fields, at most {FIELDS} are known")
        fields += [""] * (FIELDS - len(fields))
        self.zone = _zone(fields[0])
        self.start = _moment(fields[1], self.zone)
        self.freq = _frequency(fields[4])
        self.until = _moment(fields[5], self.zone)
        self.interval = _number(fields[6], 1, 10_000) if fields[6] else 1
        self.by_day = [_by_day(part) for part in _parts(fields[7])]
        self.by_month_day = [_number(part, -31, 31) for part in _parts(fields[8])]
        self.by_year_day = [_number(part, -366, 366) for part in _parts(fields[9])]
        self.by_week = [_number(part, -53, 53) for part in _parts(fields[10])]
        self.by_month = [_number(part, -12, 12) for part in _parts(fields[11])]
        if not self.freq and any(fields[5:]):
            raise TimeRecError("until, interval and by... need a freq")
        self.always = self.start is None and not any(fields[2:])
        if self.start is None:
            self.start = datetime(1970, 1, 1, tzinfo=self.zone).timestamp()
        self.end = self._end(fields[2], fields[3])

    def _end(self, end: str, duration: str) -> float | None:
        assert self.start is not None
        if duration:
            return self.start + _seconds(duration)
        moment = _moment(end, self.zone)
        if moment is not None:
            return moment
        if not self.freq:
            return None
        # Without an end, an instance lasts to the end of its unit.
        return self.start + UNIT_SECONDS[self.unit] - self._place(self._local(self.start))

    @property
    def unit(self) -> str:
        """The shortest unit that a field names: within it the begin and the end of an instance count."""
        if self.freq == DAILY or self.by_day or self.by_month_day or self.by_year_day:
            return DAILY
        if self.freq == WEEKLY or self.by_week:
            return WEEKLY
        if self.freq == MONTHLY or self.by_month:
            return MONTHLY
        return YEARLY

    def _local(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment, self.zone)

    def _place(self, at: datetime) -> int:
        """Seconds since the begin of the unit."""
        seconds = at.hour * 3600 + at.minute * 60 + at.second
        unit = self.unit
        if unit == WEEKLY:
            return at.weekday() * DAY + seconds
        if unit == MONTHLY:
            return (at.day - 1) * DAY + seconds
        if unit == YEARLY:
            return (at.timetuple().tm_yday - 1) * DAY + seconds
        return seconds

    def matches(self, moment: float) -> bool:
        """Whether the moment, seconds since 1970, is within an instance."""
        if self.always:
            return True
        assert self.start is not None
        if moment < self.start:
            return False
        if not self.freq:
            return self.end is None or moment < self.end
        if self.until is not None and moment > self.until:
            return False
        at = self._local(moment)
        return self._right_interval(at) and self._within(at) and self._by(at)

    def _right_interval(self, at: datetime) -> bool:
        assert self.start is not None
        if self.interval == 1:
            return True
        start = self._local(self.start)
        first, day = start.date(), at.date()
        if self.freq == DAILY:
            passed = (day - first).days
        elif self.freq == WEEKLY:
            passed = (_monday(day) - _monday(first)).days // 7
        elif self.freq == MONTHLY:
            passed = (day.year - first.year) * 12 + day.month - first.month
        else:
            passed = day.year - first.year
        return passed % self.interval == 0

    def _within(self, at: datetime) -> bool:
        assert self.start is not None
        assert self.end is not None
        if self.end - self.start >= UNIT_SECONDS[self.unit]:
            return True
        begin, end, place = self._place(self._local(self.start)), self._place(self._local(self.end)), self._place(at)
        if begin < end:
            return begin <= place < end
        # The instance goes on into the next unit; one without length never matches.
        return self.end > self.start and (place >= begin or place < end)

    def _by(self, at: datetime) -> bool:
        year_days = 366 if _leap(at.year) else 365
        month_days = (date(at.year + at.month // 12, at.month % 12 + 1, 1) - date(at.year, at.month, 1)).days
        day_of_year = at.timetuple().tm_yday
        week, weeks = at.isocalendar().week, date(at.year, 12, 28).isocalendar().week
        return (
            _listed(self.by_month, at.month, 12)
            and _listed(self.by_week, week, weeks)
            and _listed(self.by_year_day, day_of_year, year_days)
            and _listed(self.by_month_day, at.day, month_days)
            and self._day_listed(at, day_of_year, year_days, month_days)
        )

    def _day_listed(self, at: datetime, day_of_year: int, year_days: int, month_days: int) -> bool:
        if not self.by_day:
            return True
        day, days = (day_of_year, year_days) if self.freq == YEARLY and not self.by_month else (at.day, month_days)
        places = (0, (day - 1) // 7 + 1, -((days - day) // 7 + 1))
        return any(at.weekday() == weekday and number in places for number, weekday in self.by_day)


def parse(text: str) -> Check:
    """What `text` says about a moment; raises TimeRecError."""
    if len(text) > HIGHEST_LENGTH:
        raise TimeRecError(f"longer than {HIGHEST_LENGTH} characters")
    if not text.strip():
        return _always
    return _Expression(text).whole()


class _Expression:
    """`!` binds closest, then `&`, then `/`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def whole(self) -> Check:
        found = self.any_of()
        if self.next() is not None:
            raise TimeRecError(f"unexpected {self.text[self.at]!r} at {self.at + 1}")
        return found

    def next(self) -> str | None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at] if self.at < len(self.text) else None

    def any_of(self) -> Check:
        parts = [self.all_of()]
        while self.next() == "/":
            self.at += 1
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else lambda moment: any(part(moment) for part in parts)

    def all_of(self) -> Check:
        parts = [self.one()]
        while self.next() == "&":
            self.at += 1
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else lambda moment: all(part(moment) for part in parts)

    def one(self) -> Check:
        self.depth += 1
        if self.depth > HIGHEST_NESTING:
            raise TimeRecError(f"nested deeper than {HIGHEST_NESTING}")
        try:
            char = self.next()
            if char == "!":
                self.at += 1
                inner = self.one()
                return lambda moment: not inner(moment)
            if char == "(":
                self.at += 1
                group = self.any_of()
                if self.next() != ")":
                    raise TimeRecError("a closing parenthesis is missing")
                self.at += 1
                return group
            return Recurrence(self.term()).matches
        finally:
            self.depth -= 1

    def term(self) -> str:
        begin = self.at
        # The slash of a timezone's name is no operator.
        zone = begin < len(self.text) and self.text[begin].isalpha()
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in "&()!" or (char == "/" and not zone):
                break
            if char == "|":
                zone = False
            self.at += 1
        term = self.text[begin : self.at].strip()
        if not term:
            raise TimeRecError(f"a time recurrence is missing at {begin + 1}")
        return term


def _always(_moment: float) -> bool:
    return True


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _listed(numbers: list[int], value: int, count: int) -> bool:
    """Whether the value, or its place from the end, is in the list; an empty list takes all."""
    return not numbers or value in numbers or value - count - 1 in numbers


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _number(text: str, lowest: int, highest: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,6}", text) or not lowest <= int(text) <= highest or int(text) == 0:
        raise TimeRecError(f"{text!r} is no number from {lowest} to {highest}")
    return int(text)


def _zone(name: str) -> tzinfo | None:
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise TimeRecError(f"{name!r} is no timezone") from error


def _moment(text: str, zone: tzinfo | None) -> float | None:
    if not text:
        return None
    found = DATE_TIME.match(text)
    if found is None:
        raise TimeRecError(f"{text!r} is no date as 20210104T080000")
    try:
        at = datetime.strptime(found[1] + (found[2] or "000000"), "%Y%m%d%H%M%S")
        return at.replace(tzinfo=UTC if found[3] else zone).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise TimeRecError(f"{text!r} is no date: {error}") from error


def _seconds(text: str) -> int:
    found = DURATION.match(text.upper())
    if found is None or not any(found.groups()):
        raise TimeRecError(f"{text!r} is no duration as P1DT2H")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (weeks * 7 + days) * DAY + hours * 3600 + minutes * 60 + seconds


def _frequency(text: str) -> str:
    name = text.upper()
    if name and name not in UNIT_SECONDS:
        raise TimeRecError(f"{text!r} is no freq: daily, weekly, monthly or yearly")
    return name


def _by_day(text: str) -> tuple[int, int]:
    found = BY_DAY.match(text.upper())
    if found is None:
        raise TimeRecError(f"{text!r} is no day as MO or -1FR")
    return int(found[1] or 0), WEEKDAYS.index(found[2])
