"""MultiIndexSampler (MIDX): draws close to the retriever's softmax at a cost independent of the catalogue's size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.corr.quantization import ProductQuantization, quantize
from corral.sampling.catalogue import Catalogue
from corral.sampling.inverse_cdf import inverse_cdf
from corral.sampling.sampler import Sample

# e^-600 is far from underflow in float64; where a query's codewords are farther apart, logarithms are summed: else
# a k0 whose items all have unlikely k1 would lose its weight, however likely k0 itself makes it.
MAX_SPREAD = 600.0


@dataclass(frozen=True)
class _Scores:
    """What query vectors make of the codewords; float64, natural logarithms.

    Attributes:
        first: q0 . C0[k0], [B, K].
        second: q1 . C1[k1], [B, K].
        second_weights: e^(second - its maximum), [B, K].
        wide: the queries for which some of these may be 0 by underflow [<= B], int64.
        first_weights: in proportion to P(k0 | q), [B, K]; 0 where all cells of k0 are empty.
        total: log sum_{k0,k1} n(k0, k1) e^(first + second), [B, 1].
    """

    first: Tensor
    second: Tensor
    second_weights: Tensor
    wide: Tensor
    first_weights: Tensor
    total: Tensor


class MultiIndexSampler(nn.Module):
    """The inverted multi-index (CoRR, The sampler): a codeword k0, a codeword k1 given it, an item of that cell.

    Item vectors are cut in two halves with K codewords each; cell (k0, k1) lists the n(k0, k1) items with
    these codewords. For a query q = [q0 ; q1]:

    - P(k0 | q) in proportion to e^{q0.C0[k0]} sum_{k1} n(k0, k1) e^{q1.C1[k1]},
    - P(k1 | k0, q) in proportion to n(k0, k1) e^{q1.C1[k1]},
    - the item uniform in its cell,

    hence Q(i | q) = e^{<q, w_i>} / sum_{k0,k1} n(k0, k1) e^{q0.C0[k0] + q1.C1[k1]}, w_i the two codewords of
    i: normalised over the catalogue, and exact for the codewords that were really used, however old they are.
    Every item has a positive probability.

    Cost per query O(K D + K^2 + N K), whatever M; memory O(K D + K^2 + M), and while it draws N K numbers of 8 bytes a
    query. All that a refresh builds is in ``state_dict()``; the next refresh starts from its codewords. Scores are made
    in the codewords' dtype (float32, also under autocast), probabilities from them in float64.

    Args:
        catalogue: item rows [M], int64.
        size: D, of query and item vectors; at least 2.
        num_codewords: K per half.
        seed: of the first refresh's k-means++, and of codewords that start anew in later ones.

    Raises:
        ValueError: an empty catalogue, a reserved or repeated row, size < 2, or K < 1.
    """

    normalised: bool = True

    codewords_0: Tensor
    codewords_1: Tensor
    cells: Tensor
    cell_sizes: Tensor
    cell_offsets: Tensor
    listed_items: Tensor
    refreshed: Tensor

    def __init__(self, catalogue: Tensor, *, size: int, num_codewords: int = 32, seed: int = 0) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"vectors of size {size} cannot be cut in two halves")
        if num_codewords < 1:
            raise ValueError(f"need at least one codeword, got {num_codewords}")
        self.size, self.num_codewords, self.seed = size, num_codewords, seed
        self.catalogue = Catalogue(catalogue)
        first = size // 2
        device = catalogue.device
        self.register_buffer("codewords_0", torch.zeros(num_codewords, first, device=device))
        self.register_buffer("codewords_1", torch.zeros(num_codewords, size - first, device=device))
        # Cell k0 K + k1 of each catalogue position, and the items listed cell after cell.
        self.register_buffer("cells", torch.zeros_like(catalogue))
        self.register_buffer("listed_items", catalogue.clone())
        sizes = torch.zeros(num_codewords, num_codewords, dtype=torch.int64, device=device)
        self.register_buffer("cell_sizes", sizes)
        self.register_buffer("cell_offsets", torch.zeros_like(sizes))
        self.register_buffer("refreshed", torch.zeros((), dtype=torch.bool, device=device))

    @torch.no_grad()
    def refresh(self, item_vectors: Tensor) -> None:
        """Builds codewords and inverted lists from item vectors [M, D]; O(M K D) (CoRR, The sampler, step 1).

        Starts from the codewords of the last refresh. The vectors are copied from, not kept.

        Raises:
            ValueError: vectors of another shape, or not finite.
        """
        self.catalogue.check_vectors(item_vectors, self.size)
        self._take(quantize(item_vectors, self.num_codewords, previous=self._previous(), seed=self.seed))

    def _previous(self) -> tuple[Tensor, Tensor] | None:
        """The codewords of the last refresh; None before the first."""
        return (self.codewords_0, self.codewords_1) if bool(self.refreshed) else None

    def _take(self, quantization: ProductQuantization) -> None:
        """Codewords and lists of the whole catalogue."""
        codes = quantization.codes.to(self.cells.device)
        cells = codes[:, 0] * self.num_codewords + codes[:, 1]
        sizes = torch.bincount(cells, minlength=self.num_codewords**2)
        # Copied into the buffers, so that whoever holds them (a checkpoint, a device) holds the new ones.
        self.codewords_0.copy_(quantization.codewords_0)
        self.codewords_1.copy_(quantization.codewords_1)
        self.cells.copy_(cells)
        self.cell_sizes.copy_(sizes.view_as(self.cell_sizes))
        self.cell_offsets.copy_((sizes.cumsum(0) - sizes).view_as(self.cell_offsets))
        self.listed_items.copy_(self.catalogue.items[cells.argsort(stable=True)])
        self.refreshed.fill_(True)

    def observe(self, items: Tensor) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n independent draws, with replacement, for each query vector [B, D] (CoRR, The sampler, step 2).

        Returns:
            items [B, n] and log_q [B, n], without gradient.

        Raises:
            RuntimeError: before the first refresh.
        """
        scores = self._scores(query_vectors)
        shape = (3, len(query_vectors), n)
        uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        uniform = uniform.to(query_vectors.device)
        k0 = inverse_cdf(scores.first_weights.cumsum(1), uniform[0])
        # In place: a second [B, N, K] costs more in page faults than the sums themselves.
        k1 = inverse_cdf(self._cell_weights(scores, k0).cumsum_(2), uniform[1, ..., None])[..., 0]
        cell = k0 * self.num_codewords + k1
        sizes = self.cell_sizes.flatten()[cell]
        within = torch.minimum((uniform[2] * sizes).long(), sizes - 1)
        items = self.listed_items[self.cell_offsets.flatten()[cell] + within]
        return Sample(items, self._log_q(scores, k0, k1))

    @torch.no_grad()
    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """Log-probability of drawing ``items`` [B, N] for each query [B, N] (CoRR, The sampler, step 3).

        Natural log, normalised, no gradient; -inf for rows outside the catalogue.

        Raises:
            RuntimeError: before the first refresh.
        """
        position = self.catalogue.positions(items)
        cells = self.cells[position]
        k0, k1 = cells // self.num_codewords, cells % self.num_codewords
        return self._log_q(self._scores(query_vectors), k0, k1).masked_fill(position < 0, -torch.inf)

    def _log_q(self, scores: _Scores, k0: Tensor, k1: Tensor) -> Tensor:
        """log Q [B, N] of an item in cell (k0, k1), each [B, N]."""
        log_q = scores.first.gather(1, k0) + scores.second.gather(1, k1) - scores.total
        return log_q.to(self.codewords_0.dtype)

    def _scores(self, query_vectors: Tensor) -> _Scores:
        if not bool(self.refreshed):
            raise RuntimeError("the multi-index has no codewords yet: call refresh(item_vectors) before drawing")
        # Half-precision scores would be another proposal than the one log_q is asked for outside autocast.
        with torch.autocast(query_vectors.device.type, enabled=False):
            queries = query_vectors.to(self.codewords_0.dtype)
            split = self.codewords_0.shape[1]
            first = (queries[:, :split] @ self.codewords_0.T).double()
            second = (queries[:, split:] @ self.codewords_1.T).double()
        top = second.amax(1, keepdim=True)
        wide = (top[:, 0] - second.amin(1) > MAX_SPREAD).nonzero()[:, 0]
        second_weights = (second - top).exp()
        # log sum_k1 n(k0, k1) e^second[k1], [B, K]; -inf where all cells of k0 are empty.
        tail = (second_weights @ self.cell_sizes.T.double()).log() + top
        if len(wide):
            tail[wide] = torch.logsumexp(second[wide][:, None, :] + self.cell_sizes.double().log(), 2)
        joint = first + tail
        top = joint.amax(1, keepdim=True)
        first_weights = (joint - top).exp()
        total = first_weights.sum(1, keepdim=True).log() + top
        return _Scores(first, second, second_weights, wide, first_weights, total)

    def _cell_weights(self, scores: _Scores, k0: Tensor) -> Tensor:
        """Weights of k1 [B, N, K], in proportion to n(k0, k1) e^second[k1], for drawn k0 [B, N]."""
        weights = self.cell_sizes.double()[k0]
        weights *= scores.second_weights[:, None, :]
        if len(scores.wide):
            sizes = self.cell_sizes.double()[k0[scores.wide]]
            weights[scores.wide] = torch.softmax(scores.second[scores.wide][:, None, :] + sizes.log(), 2)
        return weights
