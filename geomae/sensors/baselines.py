"""Processing baselines of Sentinel-2 from product names: from 04.00 on, stored values include an offset."""

import re

FIRST_OFFSET_BASELINE = 400
OFFSET_SUFFIX = "-n0400"  # suffix of the names of sensors with that offset
NAMED = re.compile(r"S2[A-D][^/]*?_N(0\d{3})(?![0-9A-Za-z])")  # N9999 (Sen2Cor run by users) gives no baseline


def carries_offset(path: str) -> bool | None:
    """Whether the values of a file include the offset, by the baseline in its path; None without a baseline."""
    baselines = NAMED.findall(path)
    return int(baselines[-1]) >= FIRST_OFFSET_BASELINE if baselines else None
