"""Random numbers: every draw is a function of (seed, purpose, index), never of the order of calls."""

import hashlib

import numpy as np


def key(seed: int, purpose: str, *indices: int | str) -> int:
    """Return a 128-bit integer that depends only on the arguments, on every machine and in every process."""
    text = "\x1f".join((str(seed), purpose, *(str(index) for index in indices)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, purpose: str, *indices: int | str) -> np.random.Generator:
    """Return a new generator for one purpose and index. Philox is used because it starts from a key at no cost."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *indices)))
