"""Whether this process may be one of several ranks, decided without Fabric, which takes seconds to import."""

import os

STARTERS = ("LOCAL_RANK", "NODE_RANK", "SLURM_", "TORCHELASTIC_")  # prefixes of the variables that launchers set


def alone() -> bool:
    """Whether no launcher has set its environment variables: this process is then the only rank, 0.

    Otherwise `geomae.runtime.devices.early_rank` returns the rank.
    """
    return not any(name.startswith(STARTERS) for name in os.environ)


def leads() -> bool:
    """Whether this process is rank 0, which writes the results; also valid before the other ranks are started."""
    if alone():
        return True
    from geomae.runtime.devices import early_rank

    return early_rank() == 0
