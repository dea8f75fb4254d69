"""sharded_quantize: ``quantize`` where every worker has its items' vectors: Lloyd's k-means over sums of the workers.

Shape letters: M items of all workers, m of this one, D vector size, d of a half, K codewords.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corral.corr.quantization import ProductQuantization, quantize
from corral.scale.workers import Workers

# So many items a codeword are shown to all workers: the whole of a smaller catalogue, else a sample to start from.
SHOWN = 256
_ROWS = 1 << 14  # vectors compared with the codewords at a time


def sharded_quantize(
    vectors: Tensor,
    num_codewords: int,
    workers: Workers,
    *,
    previous: tuple[Tensor, Tensor] | None = None,
    max_steps: int = 30,
    seed: int = 0,
) -> ProductQuantization:
    """As ``quantize``, over the vectors of all workers; the same on each, to rounding whatever their number.

    At most 256 K items are gathered, and quantised by every worker: exactly as one process does it. Of more, each
    worker keeps its own: Lloyd steps from the previous codewords, else from those of a sample of 256 K. Sums are in
    float64, so that their order changes no codeword in float32. A step sends K (d + 1) numbers a half, the end 16
    bytes an item.

    Args:
        vectors: of this worker's items [m, D], finite.
        num_codewords: K.
        workers: who hold the others, in the order of the catalogue.
        previous: codewords to start from.
        max_steps: Lloyd steps at most; it ends earlier where no item changes its codeword.
        seed: of the sample, and of k-means++ in it.

    Returns:
        The quantisation of all M items, float32.
    """
    vectors = vectors.detach().float()
    if workers.total(len(vectors)) <= SHOWN * num_codewords:
        return quantize(
            torch.cat(workers.gather(vectors)), num_codewords, previous=previous, max_steps=max_steps, seed=seed
        )
    first = vectors.shape[1] // 2
    starts = previous or _from_sample(vectors, num_codewords, workers, seed)
    halves = zip(vectors.split([first, vectors.shape[1] - first], dim=1), starts, strict=True)
    (codewords_0, codes_0), (codewords_1, codes_1) = (_lloyd(*half, workers, max_steps) for half in halves)
    codes = torch.cat(workers.gather(torch.stack([codes_0, codes_1], 1)))
    return ProductQuantization(codewords_0, codewords_1, codes)


def _from_sample(vectors: Tensor, clusters: int, workers: Workers, seed: int) -> tuple[Tensor, Tensor]:
    """Codewords of a few items, drawn by their places in the catalogue."""
    counts = workers.numbers(len(vectors))
    before, everyone = sum(counts[: workers.rank]), sum(counts)
    lots = torch.randperm(everyone, generator=torch.Generator().manual_seed(seed))[: SHOWN * clusters]
    chosen = lots.sort().values - before
    own = chosen[(chosen >= 0) & (chosen < len(vectors))].to(vectors.device)
    found = quantize(torch.cat(workers.gather(vectors[own])), clusters, seed=seed)
    return found.codewords_0, found.codewords_1


def _lloyd(half: Tensor, start: Tensor, workers: Workers, max_steps: int) -> tuple[Tensor, Tensor]:
    """Codewords [K, d] and the codeword of each of this worker's items [m]."""
    codewords, codes = start.double(), torch.full((len(half),), -1, device=half.device)
    for _ in range(max_steps):
        nearest, error = _nearest(half, codewords)
        changed, codes = int((nearest != codes).sum()), nearest
        if not workers.total(changed):
            break
        sums = torch.zeros(len(codewords), half.shape[1] + 1, dtype=torch.float64, device=half.device)
        sums.index_add_(0, codes, torch.cat([half.double(), half.new_ones(len(half), 1).double()], 1))
        sums = workers.sum(sums)
        live = sums[:, -1] > 0
        codewords[live] = sums[live, :-1] / sums[live, -1:]
        _reseed(codewords, ~live, half, error, workers)
    # What is stored is float32: the codes belong to that.
    codewords = codewords.float()
    return codewords, _nearest(half, codewords.double())[0]


def _nearest(half: Tensor, codewords: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codeword of each vector [m], and its squared distance [m]; among equals the first."""
    found, errors = [], []
    for rows in half.split(_ROWS):
        part = rows.double()
        distances = codewords.square().sum(1) - 2 * part @ codewords.T
        least = distances.min(1)
        found.append(least.indices)
        errors.append((least.values + part.square().sum(1)).clamp(min=0))
    if not found:
        return torch.zeros(0, dtype=torch.int64, device=half.device), codewords.new_zeros(0)
    return torch.cat(found), torch.cat(errors)


def _reseed(codewords: Tensor, dead: Tensor, half: Tensor, error: Tensor, workers: Workers) -> None:
    """Puts codewords without items on the items of the largest errors, of all workers; in place."""
    number = int(dead.sum())
    if not number:
        return
    worst = error.topk(min(number, len(error)))
    known = torch.cat([worst.values[:, None], half[worst.indices].double()], 1)
    known = torch.cat(workers.gather(known[worst.values > 1e-12]))
    order = known[:, 0].argsort(descending=True, stable=True)[:number]
    codewords[dead.nonzero()[: len(order), 0]] = known[order, 1:]
