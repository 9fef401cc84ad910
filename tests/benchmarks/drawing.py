"""Drawing tiles by groups: how much decoding it saves, and how much less varied batches become.

    uv run python tests/benchmarks/drawing.py --catalog ../shared/data/catalog.yaml --dataset hls-unlabelled
        [--batch 64] [--epochs 50]

Every scene of the data set is a group, whatever its size, and tiles are drawn in the order of a training with a given
number of active groups. For each number, the table gives the number of groups in a batch; the variance of batch means,
relative to that of tiles drawn one by one (mean of each band over a tile, standardised; 2 is that of batches of half
the size); and how often a group is decoded per epoch, if as many groups are cached as are active.
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import open_catalog
from geomae.randomness import generator
from geomae.rasters.blocks import BLOCKS_BYTES
from geomae.tiles.draw_groups import IN_TURN_BYTES, DrawGroups
from geomae.tiles.index import build_index

IN_TURN = (5, 10, 15, 30, 60, 120)
Whole = NDArray[np.int64]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=50, help="epochs to average over")
    arguments = parser.parse_args()
    index = build_index(open_catalog(arguments.catalog), arguments.dataset)
    group_T = np.unique(index.tiles["scene"].to_numpy(), return_inverse=True)[1].reshape(-1)
    mean_TC = index.survey.figures()["mean"]
    mean_TC = (mean_TC - mean_TC.mean(0)) / mean_TC.std(0)
    count = int(group_T.max()) + 1
    print(f"{len(group_T)} tiles in {count} groups, batches of {arguments.batch}\n")
    print("| active groups | groups in a batch | variance of batch means | decoded in an epoch |\n|---|---|---|---|")
    rngs = [generator(0, "benchmark drawing", epoch) for epoch in range(arguments.epochs)]
    alone = [rng.permutation(len(group_T)) for rng in rngs]
    usual = np.mean([variance(mean_TC, order_T, arguments.batch) for order_T in alone])
    orders = {str(turn): [DrawGroups(group_T, turn).draw(rng)[0] for rng in rngs] for turn in IN_TURN if turn < count}
    for name, of_epochs in (orders | {"one by one": alone}).items():
        kept = (int(name) if name.isdigit() else IN_TURN[-1]) * BLOCKS_BYTES // IN_TURN_BYTES
        figures = [
            (
                variety(group_T, order_T, arguments.batch),
                variance(mean_TC, order_T, arguments.batch) / usual,
                decoded(group_T[order_T], kept) / count,
            )
            for order_T in of_epochs
        ]
        groups, noise, times = np.mean(figures, axis=0)
        print(f"| {name} | {groups:.1f} | {noise:.2f} | {times:.2f} x |")


def variance(mean_TC: NDArray[np.float64], order_T: Whole, batch: int) -> float:
    """Variance of the means of batches around the mean of all tiles."""
    whole = len(order_T) // batch * batch
    mean_BC = mean_TC[order_T[:whole]].reshape(-1, batch, mean_TC.shape[1]).mean(1)
    return float((mean_BC**2).mean())


def variety(group_T: Whole, order_T: Whole, batch: int) -> float:
    """Groups in a batch."""
    whole = len(order_T) // batch * batch
    return float(np.mean([len(set(one)) for one in group_T[order_T[:whole]].reshape(-1, batch).tolist()]))


def decoded(group_T: Whole, kept: int) -> int:
    """Number of groups that are decoded if the last `kept` are cached."""
    known: OrderedDict[int, None] = OrderedDict()
    count = 0
    for group in group_T.tolist():
        if group in known:
            known.move_to_end(group)
            continue
        count += 1
        known[group] = None
        if len(known) > kept:
            known.popitem(last=False)
    return count


if __name__ == "__main__":
    main()
