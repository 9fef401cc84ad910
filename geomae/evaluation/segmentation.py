"""The probe of segmentation: patch embeddings against a raster of classes, scored pixel by pixel.

T tiles, R x C patches of a tile, H x W pixels of a tile, N patches of all tiles, D features, K classes
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from geomae.evaluation.linear_probe import C_VALUES, LOOSE, Folds, LinearProbe, fit_path, one_hot
from geomae.metrics.predictions import UNKNOWN, Codes, Floats, average, class_scores
from geomae.randomness import generator

MOST_PATCHES = 10_000  # to train on; more change little and take long
BLOCK = 64  # tiles whose pixels are in memory at a time


def class_shares(class_THW: NDArray[np.int16], rows: int, cols: int, classes: int) -> Floats:
    """Share of each class (T, R, C, K) in all pixels of a patch; unknown pixels belong to none.

    A pixel belongs to the patch that its centre lies in.
    """
    tiles, height, width = class_THW.shape
    row_H = (np.arange(height) * 2 + 1) * rows // (2 * height)
    col_W = (np.arange(width) * 2 + 1) * cols // (2 * width)
    patch_THW = (np.arange(tiles)[:, None, None] * rows + row_H[:, None]) * cols + col_W
    known_THW = class_THW != UNKNOWN
    cell = patch_THW[known_THW] * classes + class_THW[known_THW]
    count = np.bincount(cell, minlength=tiles * rows * cols * classes).reshape(tiles, rows, cols, classes)
    pixels_RC = np.outer(np.bincount(row_H, minlength=rows), np.bincount(col_W, minlength=cols))
    return count / np.maximum(pixels_RC, 1)[:, :, None]


def draw_patches(share_TRCK: Floats, seed: int, most: int = MOST_PATCHES) -> Codes:
    """Positions of patches to train on, in order: those that hold a known class, at most `most`, drawn at random."""
    usable = np.flatnonzero(share_TRCK.sum(-1).ravel() > 0)
    if len(usable) > most:
        usable = generator(seed, "segmentation patches").choice(usable, most, replace=False)
    return np.sort(usable)


def choose_patch_C(
    patches_TRCD: NDArray[np.floating],
    share_TRCK: Floats,
    folds: Folds,
    seed: int,
    C_values: Sequence[float] = C_VALUES,
) -> tuple[float, dict[float, float]]:
    """The strength with the highest mean IoU over the patches of all held-out tiles, and the score of each.

    A patch counts by the shares of its classes. Classes are not balanced: every pixel counts the same in an IoU. Of
    equal scores the stronger regularisation wins.
    """
    C_values = sorted(C_values)
    classes = share_TRCK.shape[-1]
    counts_SKK = np.zeros((len(C_values), classes, classes))
    for learn, held in folds:
        patches_ND, share_NK = training_patches(patches_TRCD[learn], share_TRCK[learn], seed)
        probes = fit_path(patches_ND, share_NK, C_values, balanced=False, tolerance=LOOSE)
        truth_NK = share_TRCK[held].reshape(-1, classes)
        for number, probe in enumerate(probes):
            predicted_N = probe.predict(patches_TRCD[held].reshape(len(truth_NK), -1))
            counts_SKK[number] += truth_NK.T @ one_hot(predicted_N, classes)
    score_S = average(class_scores(counts_SKK)["iou"])
    return C_values[int(score_S.argmax())], dict(zip(C_values, score_S.tolist(), strict=True))


def training_patches(
    patches_TRCD: NDArray[np.floating], share_TRCK: Floats, seed: int
) -> tuple[NDArray[np.floating], Floats]:
    """Patches (N, D) to train on and the shares (N, K) of their classes."""
    drawn = draw_patches(share_TRCK, seed)
    flat_ND = patches_TRCD.reshape(-1, patches_TRCD.shape[-1])
    return flat_ND[drawn], share_TRCK.reshape(-1, share_TRCK.shape[-1])[drawn]


def predict_pixels(
    probe: LinearProbe, patches_TRCD: NDArray[np.floating], height: int, width: int
) -> Iterator[tuple[slice, Codes]]:
    """Go through the tiles some at a time: which, and the class (T, H, W) of each of their pixels.

    The probabilities of the patches are interpolated bilinearly between the patches' centres.
    """
    for begin in range(0, len(patches_TRCD), BLOCK):
        part = slice(begin, min(begin + BLOCK, len(patches_TRCD)))
        scores_TRCK = torch.from_numpy(probe.scores(patches_TRCD[part]))
        probability_TKRC = scores_TRCK.softmax(-1).permute(0, 3, 1, 2)
        probability_TKHW = interpolate(probability_TKRC, (height, width), mode="bilinear", align_corners=False)
        yield part, probability_TKHW.argmax(1).numpy()
