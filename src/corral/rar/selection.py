"""Selection: the k rows of a pool that are most like a query; exactly, or by SimHash (RAR, section 1, eqs 1-4).

Selection is discrete: nothing here has gradient. Equal scores are in order of rows, ascending, everywhere.

Shape letters: q queries, n rows of a pool, D vector size, k rows wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from corral.data.tables import Tables
from corral.data.vocabulary import FIRST_ROW
from corral.data.whole_batch import by_shares
from corral.rar.hamming_index import HammingIndex, HammingKind
from corral.rar.inner_product_hash import InnerProductHash
from corral.rar.pool import Metric, Pool
from corral.rar.simhash import SimHash, hamming
from corral.retrieval.index import check_search, ordered_top

# Bound on the memory of the pool vectors or codes that are gathered at a time.
_GATHER_BYTES = 64 << 20


@dataclass(frozen=True)
class Selected:
    """What was chosen.

    Attributes:
        rows: [q, k], int64, best first; 0 where there is no more.
        scores: [q, k], descending; -inf where there is no more.
    """

    rows: Tensor
    scores: Tensor


@runtime_checkable
class Selector(Protocol):
    """A frozen snapshot of a pool that answers "the k most alike for these queries"."""

    def fit(self, vectors: Tensor, rows: Tensor) -> None:
        """Takes the pool: vectors [n, D] of rows [n], int64; padding, unknown and repeated rows are refused."""
        ...

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        """The k best rows for each query [q, D], never ``exclude`` [q]; padded where the pool has fewer."""
        ...


@runtime_checkable
class ListSelector(Selector, Protocol):
    """A selector that can also choose among rows that differ from query to query (the ``recalled`` pool)."""

    def search_among(self, queries: Tensor, rows: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        """The k best of each query's own rows [q, n]; reserved, repeated and unknown ones fall out."""
        ...

    def renumber(self, moved: Tensor) -> None:
        """Takes new row numbers in the same order; ``moved`` [old rows]: where each went."""
        ...


class ExactSelector(nn.Module):
    """Exact cosine or inner product, in blocks: the yardstick. A ``ListSelector``.

    Cost per query n D; memory that of the pool and one block of scores.

    Args:
        metric: what is ordered by.
    """

    def __init__(self, metric: Metric = "cosine") -> None:
        super().__init__()
        self.pool = Pool(metric)

    def fit(self, vectors: Tensor, rows: Tensor, *, version: int = 0) -> None:
        """Takes the pool, made from weights of ``version``; see ``Pool.fit``."""
        self.pool.fit(vectors, rows, version)

    @torch.no_grad()
    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        """See ``Selector``."""
        self.pool.check_fitted()
        out = None if exclude is None else exclude[:, None]
        found = self.pool.index().search(self.pool.scaled(queries), k, out)
        return Selected(found.items, found.scores)

    @torch.no_grad()
    def search_among(self, queries: Tensor, rows: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        """See ``ListSelector``."""
        self.pool.check_fitted()
        queries, parts = self.pool.scaled(queries), []
        for block in _blocks(len(queries), rows.shape[1] * 4 * queries.shape[1]):
            at = self.pool.positions(rows[block])
            scores = _products(queries[block], _gathered(self.pool.vectors, at))
            parts.append(best_among(scores, _known(rows[block], at), k, _part(exclude, block)))
        return _joined(parts, queries, k)

    def renumber(self, moved: Tensor) -> None:
        """See ``ListSelector``."""
        self.pool.renumber(moved)


class SimHashSelector(Tables):
    """The rows whose fingerprints agree most with the query's; the best of them put in exact order if asked.

    For the cosine, vectors are brought to length 1 before the mean is taken out: a mean of raw vectors is that of
    the longest ones, and taking it out loses more of the cosine's order than it brings. For the inner product see
    ``InnerProductHash``. Scores are agreements m - Hamming, or the metric's after a re-ranking.

    Cost per query n W words and ``rerank`` products; memory 8 W bytes a row, and the vectors where they are
    re-ranked. Rows, codes, vectors, mean and projection are buffers; an approximate index is built from them again at
    the first search after a load.

    Args:
        bits: m.
        seed: of the projection.
        metric: what the angle shall mean, and what is re-ranked by.
        rerank: so many of the best by agreement are put in exact order (never fewer than asked for); 0 = none.
        centre: take the pool's mean out before hashing.
        index: how codes are searched, see ``HammingIndex``.
        probes: of an approximate index; 0 = its default.
        native: search by FAISS; None: where it is there. False: torch alone.
    """

    codes: Tensor

    def __init__(
        self,
        bits: int = 128,
        *,
        seed: int,
        metric: Metric = "cosine",
        rerank: int = 0,
        centre: bool = True,
        index: HammingKind = "flat",
        probes: int = 0,
        native: bool | None = None,
    ) -> None:
        super().__init__()
        if rerank < 0:
            raise ValueError(f"rerank={rerank}: must not be negative")
        self.bits, self.seed, self.rerank, self.centre = bits, seed, rerank, centre
        self.index, self.probes, self.native = index, probes, native
        self.pool = Pool(metric)
        self.hash = self._new_hash(0)
        self.register_buffer("codes", torch.zeros(0, self.words, dtype=torch.int64))
        self._hamming: HammingIndex | None = None

    @property
    def words(self) -> int:
        """W."""
        return -(-self.bits // 64)

    def _new_hash(self, size: int) -> SimHash | InnerProductHash:
        kind = SimHash if self.pool.metric == "cosine" else InnerProductHash
        return kind(size, self.bits, seed=self.seed, centre=self.centre)

    @torch.no_grad()
    def fit(self, vectors: Tensor, rows: Tensor, *, version: int = 0) -> None:
        """Takes the pool, made from weights of ``version``; see ``Pool.fit``."""
        self.pool.fit(vectors, rows, version)
        if self.hash.size != vectors.shape[1]:
            self.hash = self._new_hash(vectors.shape[1])
        self.hash.to(vectors.device).fit(self.pool.vectors)
        self.codes, self._hamming = by_shares(self.pool.vectors, self.hash.codes), None
        if not self.rerank:
            self.pool.drop_vectors()

    @torch.no_grad()
    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        """See ``Selector``."""
        self.pool.check_fitted()
        check_search(queries, k, None if exclude is None else exclude[:, None], self.hash.size)
        queries = self.pool.scaled(queries)
        wanted = max(k, self.rerank)
        # One more, in case the query's own row is among them.
        position, distance = self._nearest().search(self.hash.query_codes(queries), wanted + (exclude is not None))
        scores, rows = (self.bits - distance).float(), self.pool.rows[position]
        if exclude is not None:
            # The order of the others stays; the last goes where the query's own row was not found.
            order = (rows == exclude[:, None]).to(torch.int8).argsort(dim=1, stable=True)
            scores = scores.masked_fill(rows == exclude[:, None], -torch.inf).gather(1, order)[:, :wanted]
            rows, position = rows.gather(1, order)[:, :wanted], position.gather(1, order)[:, :wanted]
        if not self.rerank:
            return _padded(rows, scores, k)
        blocks = _blocks(len(queries), position.shape[1] * 4 * queries.shape[1])
        exact = [_products(queries[block], _gathered(self.pool.vectors, position[block])) for block in blocks]
        return best_among(torch.cat([scores[:0], *exact]).masked_fill(scores.isinf(), -torch.inf), rows, k)

    @torch.no_grad()
    def search_among(self, queries: Tensor, rows: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        """See ``ListSelector``; nothing is hashed but the queries."""
        self.pool.check_fitted()
        parts = []
        each = rows.shape[1] * (8 * self.words + (4 * queries.shape[1] if self.rerank else 0))
        for block in _blocks(len(queries), each):
            at = self.pool.positions(rows[block])
            vectors = _gathered(self.pool.vectors, at) if self.rerank else None
            codes, known = _gathered(self.codes, at), _known(rows[block], at)
            parts.append(self._among(queries[block], codes, vectors, known, k, _part(exclude, block)))
        return _joined(parts, queries, k)

    def renumber(self, moved: Tensor) -> None:
        """See ``ListSelector``."""
        self.pool.renumber(moved)

    def _among(
        self, queries: Tensor, codes: Tensor, vectors: Tensor | None, rows: Tensor, k: int, exclude: Tensor | None
    ) -> Selected:
        queries = self.pool.scaled(queries)
        scores = (self.bits - hamming(self.hash.query_codes(queries)[:, None], codes)).float()
        if vectors is None:
            return best_among(scores, rows, k, exclude)
        values, columns = _best_columns(scores, rows, max(k, self.rerank), exclude)
        near = vectors.gather(1, columns[..., None].expand(-1, -1, vectors.shape[2]))
        exact = _products(queries, near).masked_fill(values.isinf(), -torch.inf)
        return best_among(exact, rows.gather(1, columns), k)

    def _nearest(self) -> HammingIndex:
        if self._hamming is None or self._hamming.codes is not self.codes:
            self._hamming = HammingIndex(self.codes, kind=self.index, probes=self.probes, native=self.native)
        return self._hamming

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        rows, vectors = (state_dict.get(prefix + name) for name in ("pool.rows", "pool.vectors"))
        if self.rerank and rows is not None and vectors is not None and len(rows) != len(vectors):
            raise ValueError(f"rerank={self.rerank} needs vectors, and the saved pool holds codes alone: say rerank=0")
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._hamming = None


def best_among(scores: Tensor, rows: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
    """The k best of each query's own rows.

    Args:
        scores: [q, n]; -inf is never chosen.
        rows: [q, n], int64; rows 0 and 1 fall out, of a repeated row the first is kept.
        k: at least 1.
        exclude: a row never to choose for each query [q].
    """
    values, columns = _best_columns(scores, rows, k, exclude)
    return _padded(rows.gather(1, columns), values, k)


def _best_columns(scores: Tensor, rows: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores and columns [q, min(k, n)] of the best, -inf where there is no more."""
    if scores.shape != rows.shape or k < 1:
        raise ValueError(f"need scores and rows [q, n] and k >= 1, got {list(scores.shape)}, {list(rows.shape)}, {k}")
    if not rows.shape[1]:
        return scores, rows
    ascending, order = rows.sort(dim=1, stable=True)
    gone = ascending < FIRST_ROW
    gone[:, 1:] |= ascending[:, 1:] == ascending[:, :-1]
    if exclude is not None:
        gone |= ascending == exclude[:, None]
    values, place = ordered_top(scores.gather(1, order).masked_fill(gone, -torch.inf), min(k, rows.shape[1]))
    return values, order.gather(1, place)


def _padded(rows: Tensor, scores: Tensor, k: int) -> Selected:
    """k of what is there, best first; 0 and -inf after it."""
    short = max(0, k - rows.shape[1])
    scores = nn.functional.pad(scores[:, :k], (0, short), value=-torch.inf)
    rows = nn.functional.pad(rows[:, :k], (0, short)).masked_fill(scores.isinf(), 0)
    return Selected(rows, scores)


def _products(queries: Tensor, vectors: Tensor) -> Tensor:
    """Inner products [q, n] of queries [q, D] and their own vectors [q, n, D]."""
    with torch.autocast(queries.device.type, enabled=False):
        return torch.bmm(vectors, queries[:, :, None]).squeeze(2)


def _blocks(queries: int, bytes_each: int) -> list[slice]:
    step = max(1, _GATHER_BYTES // max(1, bytes_each))
    return [slice(start, start + step) for start in range(0, queries, step)]


def _gathered(table: Tensor, at: Tensor) -> Tensor:
    """Rows [q, n, ...] of a table; anything where there is none."""
    if not len(table):
        return table.new_zeros(*at.shape, table.shape[1])
    return table[at.clamp(min=0)]


def _known(rows: Tensor, at: Tensor) -> Tensor:
    return torch.where(at >= 0, rows, 0)


def _part(exclude: Tensor | None, block: slice) -> Tensor | None:
    return None if exclude is None else exclude[block]


def _joined(parts: list[Selected], queries: Tensor, k: int) -> Selected:
    if not parts:
        none = torch.zeros(0, k, dtype=torch.int64, device=queries.device)
        return Selected(none, none.float())
    return Selected(torch.cat([part.rows for part in parts]), torch.cat([part.scores for part in parts]))
