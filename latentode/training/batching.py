"""Which windows share a batch."""

from __future__ import annotations

import numpy as np

POOL = 16  # batches among which windows of like length are sorted together


def like_lengths(length: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Group windows into batches of like length, so that little of a batch is padding, in random order.

    Args:
        length: how wide a batch each window asks for, `(W,)`, in the random order of the draw.
        batch_size: windows per batch.
        rng: of the order of the batches.

    Returns:
        Positions of each batch's windows; every window once.
    """
    batches: list[np.ndarray] = []
    for start in range(0, len(length), POOL * batch_size):
        pool = np.arange(start, min(start + POOL * batch_size, len(length)))
        pool = pool[np.argsort(length[pool], kind="stable")]
        batches += np.split(pool, range(batch_size, len(pool), batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]
