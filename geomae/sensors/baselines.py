"""Processing baselines of Sentinel-2 as names of products say them: from 04.00 on stored values carry an offset."""

import re

FIRST_OFFSET_BASELINE = 400
OFFSET_SUFFIX = "-n0400"  # of the sensors with that offset
NAMED = re.compile(r"S2[A-D][^/]*?_N(0\d{3})(?![0-9A-Za-z])")  # N9999, of Sen2Cor at home, tells nothing


def carries_offset(path: str) -> bool | None:
    """Whether the values of a file carry the offset, by the baseline in its path; None where the path names none."""
    baselines = NAMED.findall(path)
    return int(baselines[-1]) >= FIRST_OFFSET_BASELINE if baselines else None
