"""Dates and times in UTC: their text form, comparison, and reading from product names.

A time is ISO 8601 text, `2021-06-07` or `2021-06-07T10:00:31Z`, so that text order is time order. A comparison may also
name a year or a month, which means all of it: see `period`.
"""

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta

import numpy as np

from geomae.errors import nearest

TIME = "time"
DERIVED = ("year", "month", "doy")  # integers derived from a time; doy is the day of the year, from 1
ACQUISITION_TAGS = ("SENSING_TIME", "ACQUISITION_DATETIME", "ACQUISITIONDATETIME", "ACQUISITION_DATE", "DATE_ACQUIRED")
NO_TIME = "write `time: {pattern: '...%Y%m%d...'}` of the files' names, or `time: {column: C}`"
FIRST_YEAR, LAST_YEAR = 1800, 2199
FORMS = "2021-06-07 or 2021-06-07T10:00:31Z"
PERIODS = "2021, 2021-06, 2021-06-07 or 2021-06-07T10:00:31Z"

_CLOCK = r"(\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?"
_ISO = re.compile(rf"(\d{{4}})-(\d\d)-(\d\d)(?:[T ]{_CLOCK}(Z|[+-]\d\d:?\d\d)?)?")
_BASIC = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z)?)?")  # the basic format of ISO 8601
_PERIOD = re.compile(r"(\d{4})(?:-(\d\d))?")
_MIDNIGHT = "T00:00:00Z"


def read_time(value: object) -> str:
    """Normalise a date or time to text in UTC. Without a time zone, it is UTC, and midnight becomes a day.

    Raises ValueError, with the remedy, for anything but ISO 8601 with a day, since other forms are ambiguous.
    """
    text = str(value).strip()
    match = _ISO.fullmatch(text) or _BASIC.fullmatch(text) if isinstance(value, (str, int, np.integer)) else None
    if match is None:
        raise ValueError(f"is no date{_guess(text)}; write {FORMS}")
    year, month, day, hour, minute, second, zone = match.groups()
    _check_year(int(year))
    try:
        if hour is None:
            return date(int(year), int(month), int(day)).isoformat()
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0))
        if zone not in (None, "Z"):
            away = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
            moment = moment - away if zone[0] == "+" else moment + away
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is an impossible date ({error}); write {FORMS}") from error
    return _instant(moment).removesuffix(_MIDNIGHT if zone is None else "")


def _instant(moment: datetime) -> str:
    return f"{moment.isoformat(timespec='seconds')}Z"


def _check_year(year: int) -> None:
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise ValueError(f"is no year of imagery ({FIRST_YEAR} to {LAST_YEAR}); write {FORMS}")


def _guess(text: str) -> str:
    """A guess at the meaning of a text that is not a date."""
    if re.fullmatch(r"\d{5}(\.\d+)?", text):
        return " (a spreadsheet's number of days?)"
    if re.fullmatch(r"\d{9,}(\.\d+)?", text):
        return " (seconds since 1970?)"
    if re.fullmatch(r"\d{1,4}[/.]\d{1,2}[/.]\d{1,4}.*", text):
        return " (which number is the month?)"
    return ""


def period(text: str) -> tuple[str, str]:
    """The bounds of the year, month, day or second that `text` names: the beginning, and the beginning of the next.

    Both are compared with times as text. Raises ValueError where `text` is not such a period.
    """
    match = _PERIOD.fullmatch(text.strip())
    if match is None:
        try:
            first = read_time(text)
        except ValueError as error:
            raise ValueError(str(error).replace(FORMS, PERIODS)) from error
        if len(first) == len("2021-06-07"):
            return first, (date.fromisoformat(first) + timedelta(days=1)).isoformat()
        after = _instant(datetime.fromisoformat(first.removesuffix("Z")) + timedelta(seconds=1))
        return first.removesuffix(_MIDNIGHT), after.removesuffix(_MIDNIGHT)
    year, month = int(match[1]), int(match[2] or 1)
    _check_year(year)
    if not 1 <= month <= 12:
        raise ValueError(f"has an impossible month; write {PERIODS}")
    if match[2] is None:
        return f"{year:04d}", f"{year + 1:04d}"
    return f"{year:04d}-{month:02d}", f"{year + month // 12:04d}-{month % 12 + 1:02d}"


def derived(moment: str) -> tuple[int, int, int]:
    """Year, month and day of the year of a time."""
    day = date.fromisoformat(moment[:10])
    return day.year, day.month, day.timetuple().tm_yday


def time_of_tags(tags: Mapping[str, str]) -> str | None:
    """The acquisition time from a file's tags in ACQUISITION_TAGS; None without a readable one.

    TIFFTAG_DATETIME is not used, since it is the time when the file was written. Of two acquisitions in one tag, as in
    mosaics of HLS, the first is taken.
    """
    for name in ACQUISITION_TAGS:
        if name in tags:
            try:
                return read_time(re.split(r"[;,+] ?|  ", tags[name].strip())[0])
            except ValueError:
                continue
    return None


def column_remedy(name: str, known: Collection[str]) -> str:
    """The remedy for a missing column: how to provide times, or the nearest known name."""
    return f"no file tells its date; {NO_TIME}" if name in (TIME, *DERIVED) else nearest(name, known)


def times_span(times: Iterable[str | None]) -> str:
    """The first and last of several times, in words."""
    known = [one for one in times if one is not None]
    return f"times are {min(known)} to {max(known)}" if known else "none has a time"


_MGRS = r"\d{1,2}[C-X][A-Z]{2}"
_SENTINEL_2_OF_OLD = r"S2[AB]_(?:OPER|USER)_PRD_MSIL(?:1C|2A)_\w{4}_\d{8}T\d{6}_R\d{3}_V"
# The beginning of each product's names, up to the acquisition time: DATE (YYYYMMDD) or DOY (YYYYDDD), and perhaps CLOCK
# (HHMMSS). Processing dates, which some names contain too, are never used: the granules of Sentinel-2 from 2015 and
# 2016 (S2A_OPER_MSI_L1C_TL_...) have no other date, but the folder of their product has. A real name for each row is
# in tests/unit/catalog/test_times.py.
PRODUCT_NAMES = {
    "Sentinel-2": r"S2[A-D]_MSI(?:L1C|L2A)_DATET(?:CLOCK|\d{5})(?!\d)",  # BigEarthNet writes five digits
    "Sentinel-2 before December 2016": rf"{_SENTINEL_2_OF_OLD}DATETCLOCK_",
    "Sentinel-2 granule": rf"(?:L[12][AC]_)?T{_MGRS}_(?:A\d{{6}}_)?DATETCLOCK(?!\d)",
    "Sentinel-2 as COG": rf"S2[A-D]_T?{_MGRS}_DATE(?:TCLOCK)?_",
    "Sentinel-2 of Earth Engine": rf"DATETCLOCK_\d{{8}}T\d{{6}}_T{_MGRS}(?![A-Z0-9])",
    "Sentinel-2 of MAJA": r"SENTINEL2[A-D]_DATE-CLOCK-\d{3}_L",
    "Landsat": r"L[COTEM]0[1-9]_(?:[A-Z0-9]{2,4}_)?\d{6}_DATE(?!\d)",  # Collections 1 and 2, ARD, Earth Engine
    "Landsat of ESPA": r"L[COTEM]0[1-9]\d{6}DATE0[12](?:T1|T2|RT)",
    "Landsat before collections": r"L[COTEM][1-8]\d{6}DOY[A-Z]{3}\d{2}",
    "HLS": rf"HLS\.[LS]30\.T{_MGRS}\.DOY(?:TCLOCK)?\.v\d",
    "MODIS and VIIRS": r"(?:M[OCY]D|VNP|VJ[12])\w+\.ADOY\.",
    "MODIS and VIIRS of AppEEARS": r"(?:M[OCY]D|VNP|VJ[12])\w+\.\d{3}_\w+_doyDOY(?:\d{6})?_aid",
    "NAIP": r"m_\d{7}_(?:ne|nw|se|sw)_\d{1,2}_(?:[0-9h]{1,3}_)?DATE(?!\d)",
    "PlanetScope": r"DATE_CLOCK_(?:\d{2}_)?[0-9a-f]{4}_(?:1B|3A|3B)(?![A-Za-z0-9])",
    "Sentinel-1": r"S1[A-D]_(?:IW|EW|WV|S[1-6])_(?:\w{4}_\w{4}_)?DATETCLOCK_",
    "Sentinel-1 measurement": r"s1[a-d]-(?:iw|ew|wv|s[1-6])\d?-(?:grd|slc|ocn)-(?:vv|vh|hh|hv)-DATEtCLOCK-",
}
_DIGITS = {"DATE": ("day", r"(?:19|20)\d{6}"), "DOY": ("day", r"(?:19|20)\d{5}"), "CLOCK": ("clock", r"\d{6}")}


def _any_product() -> re.Pattern[str]:
    """One expression for all products, each in a group `p0`, `p1`, ..., so that a name is searched only once."""
    rows = []
    for number, row in enumerate(PRODUCT_NAMES.values()):
        for word, (group, digits) in _DIGITS.items():
            row = row.replace(word, f"(?P<{group}{number}>{digits})")
        rows.append(f"(?P<p{number}>{row})")
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(rows)})")


_ANY_PRODUCT = _any_product()
_GROUPS = _ANY_PRODUCT.groupindex
_DIRECTIVES = {"%Y": 4, "%m": 2, "%d": 2, "%j": 3, "%H": 2, "%M": 2, "%S": 2}  # with their numbers of digits
_ENOUGH_DIGITS = re.compile(r"\d{7}")


def time_of_path(path: str) -> str | None:
    """The acquisition time of a product, from the name of the file, else of the nearest folder with one; None without.

    Products of several days (MODIS composites) have the first day. Raises ValueError for the name of a product with an
    impossible date.
    """
    folder, _, name = path.rpartition("/")
    return _time_of_name(name) or (_time_of_folder(folder) if folder else None)


def _time_of_name(name: str) -> str | None:
    match = _ANY_PRODUCT.search(name) if _ENOUGH_DIGITS.search(name) else None
    if match is None:
        return None
    number = str(match.lastgroup).removeprefix("p")
    day, clock = (match[index] if (index := _GROUPS.get(f"{word}{number}")) else None for word in ("day", "clock"))
    try:
        return written(str(day), clock)
    except ValueError as error:
        product = list(PRODUCT_NAMES)[int(number)]
        raise ValueError(f"{name!r} looks like a name of {product}, but its date is impossible ({error})") from error


@functools.lru_cache(maxsize=4096)
def _time_of_folder(folder: str) -> str | None:
    return next((found for name in reversed(folder.split("/")) if (found := _time_of_name(name))), None)


class NamePattern:
    """A pattern of dates in names: %Y, %m, %d, %j, %H, %M, %S, literal text, and `*` and `?` as in `path`.

    It may match anywhere in the name of a file, or in its path if the pattern has a slash. Digits of a date at either
    end of the pattern or next to `*` do not match within a longer number.
    """

    def __init__(self, text: str) -> None:
        """Parse `text`. Raises ValueError, with the remedy, where year or day is missing, or a directive unknown."""
        self.text = text
        pieces = re.findall(r"%.?|\*|\?|[^%*?]+", text)
        directives = [piece for piece in pieces if piece[0] == "%"]
        for one in directives:
            if one not in _DIRECTIVES:
                raise ValueError(f"{one!r} is not read; write {', '.join(_DIRECTIVES)}")
            if directives.count(one) > 1:
                raise ValueError(f"{one!r} is there twice; write `*` in place of one")
        if "%Y" not in directives or not ({"%m", "%d"} <= set(directives) or "%j" in directives):
            raise ValueError("does not say the day; write %Y with %m and %d, or with %j, the day of the year")
        if {"%M", "%S"} & set(directives) and not {"%H", "%M"} <= set(directives):
            raise ValueError("says seconds or minutes without the hour; write %H and %M before them")
        self.expression = re.compile(f"(?=({self._expression(pieces)}))")

    @staticmethod
    def _expression(pieces: Sequence[str]) -> str:
        parts = []
        for index, piece in enumerate(pieces):
            if piece[0] != "%":
                parts.append({"*": "[^/]*?", "?": "[^/]"}.get(piece, re.escape(piece)))
                continue
            before = r"(?<!\d)" if index == 0 or pieces[index - 1] == "*" else ""
            after = r"(?!\d)" if index == len(pieces) - 1 or pieces[index + 1] == "*" else ""
            parts.append(f"{before}(?P<{piece[1]}>\\d{{{_DIRECTIVES[piece]}}}){after}")
        return "".join(parts)

    def read(self, path: str) -> str:
        """The time in a path. Raises ValueError where the pattern finds no time, two times or an impossible one."""
        place = path if "/" in self.text else path.rpartition("/")[2]
        found = [match.groupdict() for match in self.expression.finditer(place)]
        if not found:
            raise ValueError(f"{self.text!r} is not in {place!r}; correct it, or leave such files out of `path`")
        try:
            times = list(dict.fromkeys(_of_parts(one) for one in found))
        except ValueError as error:
            raise ValueError(f"{self.text!r} finds an impossible date in {place!r} ({error})") from error
        if len(times) > 1:
            listed = ", ".join(times)
            raise ValueError(f"{self.text!r} is in {place!r} more than once ({listed}); write more of the name")
        return times[0]


def _of_parts(found: Mapping[str, str]) -> str:
    day = found["Y"] + (found["j"] if "j" in found else found["m"] + found["d"])
    return written(day, found["H"] + found["M"] + found.get("S", "00") if "H" in found else None)


def written(day: str, clock: str | None) -> str:
    """Format digits, YYYYMMDD or YYYYDDD and perhaps HHMMSS, as a time. Raises ValueError for an impossible date."""
    year = int(day[:4])
    _check_year(year)
    if len(day) == len("YYYYMMDD"):
        found = date(year, int(day[4:6]), int(day[6:]))
    else:
        found = date(year, 1, 1) + timedelta(days=int(day[4:]) - 1)
        if found.year != year:
            raise ValueError(f"{year} has no day {int(day[4:])}")
    if clock is None:
        return found.isoformat()
    return f"{found}T{time(int(clock[:2]), int(clock[2:4]), int(clock[4:]))}Z"
