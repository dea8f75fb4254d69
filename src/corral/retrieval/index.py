"""ItemIndex and ExactIndex: the items with the greatest inner product, exactly, in bounded memory.

Shape letters: B queries, M items in the index, D vector size, E exclusions per query, T = k list length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from corral.data.candidates import Candidates
from corral.data.tensor_file import write_tensors

FORMAT_VERSION = 1
TENSORS_FILE, DESCRIPTION_FILE = "index.safetensors", "index.json"


@runtime_checkable
class ItemIndex(Protocol):
    """A frozen snapshot of item vectors which answers "the k best items for these queries".

    It never updates itself: when the vectors change, a new index is built.
    """

    @property
    def items(self) -> Tensor:
        """Item rows in the index [M], int64, ascending."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What kind of index it is, how it is searched and what was measured of it; JSON values."""

    def search(
        self, query_vectors: Tensor, k: int, exclude: Tensor | None = None, allow: Tensor | None = None
    ) -> Candidates:
        """The k items with the greatest inner product, for each query.

        Args:
            query_vectors: [B, D].
            k: list length, >= 1. Above the number of items the list ends in padding.
            exclude: item rows never to return [B, E], int64; 0, repeated rows and rows the index does not
                have are harmless. Exclusion never shortens a list while other items remain.
            allow: [rows] bool by item row, for all queries: only items with True are returned (rows beyond
                its end are not allowed). Never shortens a list while allowed items remain, either.

        Returns:
            items and scores [B, k], score descending, equal scores by item row ascending.
        """

    def save(self, directory: Path) -> None:
        """Write the index into ``directory``, which is made if need be."""


def allowed(items: Tensor, allow: Tensor) -> Tensor:
    """Whether ``allow`` [rows] leaves each item row [...]: bool; rows beyond its end are not allowed."""
    assert allow.dtype == torch.bool, allow.dtype
    # Their answer stands behind the last one.
    return functional.pad(allow.to(items.device), (0, 1))[items.clamp(max=len(allow))]


class ExactIndex:
    """All inner products, in blocks of queries and items, merged: exact, deterministic, bounded memory.

    Ties are exact and cheap: one more than k is fetched, and only for queries whose (k+1)-th score equals
    their k-th (so that the fetched set is not determined by scores alone) the tied items with the smallest
    rows are looked for. Scores are float32 inner products; the same query in a batch of another size may
    differ in the last bit, because matrix products round differently at other shapes.

    Args:
        vectors: item vectors [M, D], float32, finite.
        items: their item rows [M], int64, each at least 2 (rows 0 and 1 are reserved), without repeats.
        chunk: items scored at a time.
        score_bytes: bound on the memory of one block of scores; sets the queries scored at a time.

    Raises:
        ValueError: shapes disagree, rows are reserved or repeated, or a vector is not finite.
    """

    def __init__(self, vectors: Tensor, items: Tensor, *, chunk: int = 65_536, score_bytes: int = 32 << 20) -> None:
        if vectors.ndim != 2 or items.shape != vectors.shape[:1]:
            raise ValueError(f"need vectors [M, D] and items [M], got {list(vectors.shape)} and {list(items.shape)}")
        if chunk < 1 or score_bytes < 1:
            raise ValueError(f"chunk and score_bytes must be positive, got {chunk} and {score_bytes}")
        # a snapshot: a copy, so that later training steps cannot reach it
        vectors = vectors.detach().to(torch.float32, copy=True).contiguous()
        items = items.detach().to(vectors.device, torch.int64, copy=True)
        if not bool((items[1:] > items[:-1]).all()):
            items, order = items.sort()
            vectors = vectors[order]
            if bool((items[1:] == items[:-1]).any()):
                repeated = int(items[1:][items[1:] == items[:-1]][0])
                raise ValueError(f"item row {repeated} is in the index twice; its items must be unique")
        if len(items) and int(items[0]) < 2:
            raise ValueError(f"item row {int(items[0])} is reserved; an index holds rows from 2 on")
        finite = torch.isfinite(vectors).all(dim=1)
        if not bool(finite.all()):
            raise ValueError(f"the vector of item row {int(items[~finite][0])} is not finite")
        self._vectors, self._items = vectors, items
        self.chunk, self.score_bytes = chunk, score_bytes
        rows = int(items[-1]) + 1 if len(items) else 2
        # One more, for the rows that it does not have.
        self._position = torch.full((rows + 1,), -1, dtype=torch.int64, device=vectors.device)
        self._position[items] = torch.arange(len(items), device=vectors.device)

    @property
    def items(self) -> Tensor:
        """Item rows in the index [M], int64, ascending."""
        return self._items

    @property
    def description(self) -> dict[str, Any]:
        """See ``ItemIndex``."""
        return {"kind": "exact", "chunk": self.chunk}

    @property
    def vectors(self) -> Tensor:
        """The vectors of ``items`` [M, D]."""
        return self._vectors

    def __len__(self) -> int:
        return len(self._items)

    def to(self, device: torch.device | str) -> ExactIndex:
        """The same index on ``device``."""
        return ExactIndex(self._vectors.to(device), self._items, chunk=self.chunk, score_bytes=self.score_bytes)

    def positions(self, items: Tensor) -> Tensor:
        """Where item rows [...] stand in ``items`` [...], int64; -1 for rows the index does not have."""
        return self._position[items.clamp(-1, len(self._position) - 1)]

    def allowed_positions(self, allow: Tensor) -> Tensor:
        """The positions which ``allow`` [rows] leaves, int64, ascending."""
        assert allow.ndim == 1, allow.shape
        return allowed(self._items, allow).nonzero().squeeze(1)

    @torch.no_grad()
    def search(
        self, query_vectors: Tensor, k: int, exclude: Tensor | None = None, allow: Tensor | None = None
    ) -> Candidates:
        """The k best items for each query; see ``ItemIndex.search``. The answer is on the queries' device."""
        check_search(query_vectors, k, exclude, self._vectors.shape[1])
        device = self._vectors.device
        queries = query_vectors.detach().to(device, torch.float32)
        kept = None if allow is None else self.allowed_positions(allow)
        found_items = torch.zeros((len(queries), k), dtype=torch.int64, device=device)
        found_scores = queries.new_full((len(queries), k), -torch.inf)
        total = len(self._items) if kept is None else len(kept)
        width = min(self.chunk, max(total, 1))
        rows = max(1, self.score_bytes // (4 * width))
        buffer = queries.new_empty(min(rows, len(queries)) * width)
        for start in range(0, len(queries) if total else 0, rows):
            block = slice(start, start + rows)
            # where each excluded item stands among the scored columns
            hidden = None
            if exclude is not None and exclude.shape[1]:
                hidden = self.positions(exclude[block].to(device))
                if kept is not None:
                    slot = torch.full((len(self._items) + 1,), -1, dtype=torch.int64, device=device)
                    slot[kept] = torch.arange(total, device=device)
                    hidden = slot[hidden]  # position -1 reads the last slot, which stays -1
            scores, columns = self._search_block(queries[block], k, kept, hidden, total, width, buffer)
            positions = columns if kept is None else kept[columns]
            shown = scores > -torch.inf
            found_items[block, : scores.shape[1]] = torch.where(shown, self._items[positions], 0)
            found_scores[block, : scores.shape[1]] = scores
        return Candidates(found_items.to(query_vectors.device), found_scores.to(query_vectors.device))

    def _search_block(
        self,
        queries: Tensor,
        k: int,
        kept: Tensor | None,
        hidden: Tensor | None,
        total: int,
        width: int,
        buffer: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Scores and columns [b, min(k, total)] of the best of all blocks of items, for some queries."""
        best: tuple[Tensor, Tensor] | None = None
        for low in range(0, total, width):
            high = min(low + width, total)
            vectors = self._vectors[low:high] if kept is None else self._vectors[kept[low:high]]
            scores = buffer[: len(queries) * (high - low)].view(len(queries), high - low)
            torch.mm(queries, vectors.T, out=scores)
            if hidden is not None:
                owner, place = ((hidden >= low) & (hidden < high)).nonzero(as_tuple=True)
                scores[owner, hidden[owner, place] - low] = -torch.inf
            top_scores, top_columns = ordered_top(scores, min(k, high - low))
            top_columns = top_columns + low
            if best is not None:
                # both lists have ties by column, and the earlier block has the smaller columns:
                # a stable sort of the two in a row keeps ties in order of the columns
                both = torch.cat([best[0], top_scores], dim=1)
                both_columns = torch.cat([best[1], top_columns], dim=1)
                top_scores, order = both.sort(dim=1, descending=True, stable=True)
                top_scores = top_scores[:, :k]
                top_columns = both_columns.gather(1, order[:, :k])
            best = top_scores, top_columns
        assert best is not None
        return best

    def save(self, directory: Path) -> None:
        """Write vectors and item rows (safetensors) and their description (JSON) into ``directory``."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {"vectors": self._vectors.cpu(), "items": self._items.cpu()}
        write_tensors(directory / TENSORS_FILE, tensors)
        description = {**self.description, "format_version": FORMAT_VERSION}
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path, device: torch.device | str = "cpu") -> Self:
        """The index written by ``save`` (of any kind of index: all write their vectors), on ``device``.

        Raises:
            ValueError: the index was written by a newer format.
        """
        description = read_description(directory)
        tensors = load_file(directory / TENSORS_FILE, device=str(device))
        return cls(tensors["vectors"], tensors["items"], chunk=int(description.get("chunk", 65_536)))


def read_description(directory: Path) -> dict[str, Any]:
    """The description of a saved index, its format version checked."""
    description = json.loads((directory / DESCRIPTION_FILE).read_text())
    if description["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{directory / DESCRIPTION_FILE}: index format {description['format_version']} is newer than "
            f"this corral reads ({FORMAT_VERSION}); install a newer corral or build the index anew"
        )
    return dict(description)


def check_search(query_vectors: Tensor, k: int, exclude: Tensor | None, dimension: int) -> None:
    """Refuse a search which cannot be answered.

    Raises:
        ValueError: k < 1, a query of another size, exclusions for another number of queries, or a query
            which is not finite (its order would mean nothing).
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if query_vectors.ndim != 2 or query_vectors.shape[1] != dimension:
        raise ValueError(f"need query vectors [B, {dimension}], got {list(query_vectors.shape)}")
    if exclude is not None and (exclude.ndim != 2 or len(exclude) != len(query_vectors)):
        raise ValueError(f"need exclude [{len(query_vectors)}, E], got {list(exclude.shape)}")
    finite = torch.isfinite(query_vectors)
    if not bool(finite.all()):
        raise ValueError(f"query vector {int((~finite).any(dim=1).nonzero()[0])} is not finite")


def ordered_top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest scores of each row and their columns; equal scores by column, ascending.

    ``torch.topk`` alone leaves open which of several equal scores it takes, and in which order.

    Args:
        scores: [b, m], without NaN; -inf marks what must not be taken while anything else is left.
        k: 1..m.

    Returns:
        values [b, k], descending, and columns [b, k], int64 (of no meaning where the value is -inf).
    """
    m = scores.shape[1]
    values, columns = _unordered_top(scores, min(k + 1, m))
    if not bool((values[:, 1:] == values[:, :-1]).any()):
        return values[:, :k].contiguous(), columns[:, :k].contiguous()
    if m > k:
        at_edge = (values[:, k] == values[:, k - 1]) & (values[:, k] > -torch.inf)
        values, columns = values[:, :k].contiguous(), columns[:, :k].contiguous()
        rows = at_edge.nonzero().squeeze(1)
        if len(rows):
            tied = scores[rows]
            edge = values[rows, k - 1 :]
            # everything above the edge, then what lies on it from the left (exact: m < 2**24)
            from_left = -torch.arange(m, dtype=torch.float32, device=scores.device)
            key = torch.where(tied == edge, from_left, torch.where(tied > edge, 1.0, -torch.inf))
            chosen = key.topk(k, dim=1).indices
            columns[rows] = chosen
            values[rows] = tied.gather(1, chosen)
            _sort_rows(values, columns, rows)
    equal = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)
    _sort_rows(values, columns, equal.any(dim=1).nonzero().squeeze(1))
    return values, columns


def _sort_rows(values: Tensor, columns: Tensor, rows: Tensor) -> None:
    """Sort some rows in place by value descending, then column ascending."""
    if not len(rows):
        return
    ascending, order = columns[rows].sort(dim=1)
    sorted_values, by_value = values[rows].gather(1, order).sort(dim=1, descending=True, stable=True)
    values[rows] = sorted_values
    columns[rows] = ascending.gather(1, by_value)


def _unordered_top(scores: Tensor, k: int, group: int = 8) -> tuple[Tensor, Tensor]:
    """``torch.topk``, 2 to 3 times faster on long rows: the k best lie in the k groups of best maximum.

    Groups are columns j, j + g, j + 2g ..., so that the maxima are taken over contiguous rows.
    """
    groups = scores.shape[1] // group
    if groups < 4 * k or groups < 1_024:
        top = scores.topk(k, dim=1)
        return top.values, top.indices
    grouped = groups * group
    maxima = scores[:, :grouped].unflatten(1, (group, groups)).amax(dim=1)
    leaders = maxima.topk(k, dim=1, sorted=False).indices
    steps = torch.arange(0, grouped, groups, device=scores.device)
    columns = (leaders[:, None, :] + steps[None, :, None]).flatten(1)
    rest = torch.arange(grouped, scores.shape[1], device=scores.device)
    columns = torch.cat([columns, rest.expand(len(scores), -1)], dim=1)
    values, place = scores.gather(1, columns).topk(k, dim=1)
    return values, columns.gather(1, place)
