"""Product quantisation of item vectors: k-means on each half of them (CoRR, The sampler, step 1)."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ProductQuantization:
    """Item vectors v_i = [v_i^0 ; v_i^1], each half replaced by one of K codewords.

    Attributes:
        codewords_0: of the first halves [K, D // 2].
        codewords_1: of the second halves [K, D - D // 2].
        codes: the codewords of each item [M, 2], int64 in 0..K-1.
    """

    codewords_0: Tensor
    codewords_1: Tensor
    codes: Tensor


def quantize(
    vectors: Tensor,
    num_codewords: int,
    *,
    previous: tuple[Tensor, Tensor] | None = None,
    max_steps: int = 30,
    seed: int = 0,
) -> ProductQuantization:
    """k-means (Lloyd, by scikit-learn) on the first D // 2 columns and on the rest; O(M K D) a step.

    Previous codewords that no vector is nearest to start anew at items drawn in proportion to their squared
    error, and centres that die on the way at those of the largest error. With fewer distinct vectors than
    codewords some codewords stay without items, which is no fault. The same arguments give the same result,
    with any number of threads allowed: one is used.

    Args:
        vectors: [M, D], D >= 2, finite.
        num_codewords: K; may be larger than M.
        previous: codewords [K, D // 2], [K, D - D // 2] to start from; None: k-means++.
        max_steps: Lloyd steps at most; it ends earlier where the codewords stand still.
        seed: of k-means++ and of codewords that start anew.

    Returns:
        The quantisation, float32, on the vectors' device.

    Raises:
        ValueError: D < 2 or K < 1.
    """
    if vectors.ndim != 2 or vectors.shape[1] < 2:
        raise ValueError(f"need vectors [M, D] with D >= 2 to cut in two halves, got {list(vectors.shape)}")
    if num_codewords < 1:
        raise ValueError(f"need at least one codeword, got {num_codewords}")
    first = vectors.shape[1] // 2
    halves = vectors.detach().to("cpu", torch.float32).split([first, vectors.shape[1] - first], dim=1)
    starts = previous or (None, None)
    parts = [
        _k_means(half.contiguous(), num_codewords, start, max_steps, seed)
        for half, start in zip(halves, starts, strict=True)
    ]
    (codewords_0, codes_0), (codewords_1, codes_1) = parts
    codes = torch.stack([codes_0, codes_1], 1)
    device = vectors.device
    return ProductQuantization(codewords_0.to(device), codewords_1.to(device), codes.to(device))


def _k_means(half: Tensor, clusters: int, start: Tensor | None, max_steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Codewords [K, d] and the codeword of each of the vectors [M, d]: [M], int64."""
    # Imported here: it takes a second, and only a refresh of the multi-index sampler needs it.
    from sklearn.cluster import k_means
    from sklearn.exceptions import ConvergenceWarning

    # scikit-learn wants as many vectors as clusters; the codewords beyond that stay at 0, without items.
    live = min(clusters, len(half))
    vectors = half.numpy()
    with _one_thread(), warnings.catch_warnings():
        # It warns of fewer distinct vectors than clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        init = "k-means++" if start is None else _without_dead(vectors, start[:live], seed)
        centres, labels, _ = k_means(
            vectors, live, init=init, n_init=1, max_iter=max_steps, algorithm="lloyd", random_state=seed
        )
    codewords = torch.zeros(clusters, half.shape[1])
    codewords[:live] = torch.from_numpy(centres)
    return codewords, torch.from_numpy(labels).long()


def _without_dead(vectors: np.ndarray, start: Tensor, seed: int) -> np.ndarray:
    """The codewords ``start``, those that no vector is nearest to put on vectors instead.

    Lloyd steps as scikit-learn does them would put all of these on the farthest vectors, be they alike.
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    codewords = start.detach().to("cpu", torch.float32, copy=True).numpy()
    nearest, distance = pairwise_distances_argmin_min(vectors, codewords)
    dead = np.setdiff1d(np.arange(len(codewords)), nearest)
    error = distance.astype(np.float64) ** 2
    dead = dead[: np.count_nonzero(error)]
    if len(dead):
        generator = np.random.default_rng(seed)
        codewords[dead] = vectors[generator.choice(len(vectors), len(dead), replace=False, p=error / error.sum())]
    return codewords


def _one_thread() -> Any:
    """A context in which OpenMP and BLAS use one thread.

    Several add up the centres in the order in which they finish: other roundings in every run.
    """
    return _thread_pools().limit(limits=1)


@functools.cache
def _thread_pools() -> Any:
    """The loaded OpenMP and BLAS libraries; found once, since finding them costs as much as a small refresh."""
    # scikit-learn brings it along.
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()
