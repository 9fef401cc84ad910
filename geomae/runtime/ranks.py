"""Whether other processes may take part, told without Fabric, which knows them and takes seconds to import."""

import os

STARTERS = ("LOCAL_RANK", "NODE_RANK", "SLURM_", "TORCHELASTIC_")  # beginnings of the variables that a starter sets


def alone() -> bool:
    """Whether nothing tells of a process that started this one as a rank: then it is the first, and leads.

    Where something does, `geomae.runtime.devices` says which rank this is.
    """
    return not any(name.startswith(STARTERS) for name in os.environ)
