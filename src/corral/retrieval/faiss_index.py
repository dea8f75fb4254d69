"""FaissIndex: the contract of ``ItemIndex`` over a FAISS index (flat, IVF or HNSW, inner product).

FAISS is optional (``pip install 'corral[ann]'``); without it ``open_index`` reads the same files into an
``ExactIndex``. Shape letters: B queries, M items, D vector size, E exclusions per query.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from corral.data.candidates import Candidates
from corral.data.tensor_file import write_tensors
from corral.data.whole_batch import by_shares, is_share
from corral.retrieval.index import (
    DESCRIPTION_FILE,
    FORMAT_VERSION,
    TENSORS_FILE,
    ExactIndex,
    check_search,
    ordered_top,
    read_description,
)

LOGGER = logging.getLogger("corral.index")
# Fewer vectors than this a list, and k-means centres are noise (FAISS itself warns below 39).
TRAIN_VECTORS_PER_LIST = 39
# Where a filter leaves less than this share of the items, scoring what is left beats walking an
# approximate structure that mostly meets forbidden items.
EXACT_SHARE = 0.1
# How often more is fetched from FAISS before a query is answered exactly.
ROUNDS = 3
# Bound on the memory of the vectors that are scored again at a time.
SCORING_BYTES = 64 << 20


def import_faiss() -> ModuleType:
    """The faiss module.

    Raises:
        ImportError: it is not installed; the message names the extra to install.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "FAISS is not installed: pip install 'corral[ann]', or use ExactIndex, which needs only torch"
        ) from error
    return faiss


def search_with_one_thread() -> None:
    """Where FAISS is installed: its searches, asked for by the calling thread, use no other.

    FAISS counts for every thread of the program apart, and begins with all cores, whatever torch was told. A server's
    other cores are for its event loop, and for other servers.
    """
    try:
        import_faiss().omp_set_num_threads(1)
    except ImportError:
        return


class FaissIndex:
    """An approximate (IVF, HNSW) or exact (flat) index. Build one with ``flat``, ``ivf`` or ``hnsw``.

    The item vectors are kept beside the FAISS structure: what FAISS finds is scored again by torch, so that
    scores and ties are as in ``ExactIndex``, and where FAISS cannot give k items (an IVF list ran empty, a
    graph walk ended, FAISS answered -1), the query is answered exactly. So a list is never short while items
    remain, whatever is excluded.

    Args:
        exact: vectors and item rows.
        native: the FAISS index over the same vectors, in the same order.
        settings: how it was built and is searched, as saved.
    """

    def __init__(self, exact: ExactIndex, native: Any, settings: dict[str, Any]) -> None:
        if native.ntotal != len(exact):
            raise ValueError(f"the FAISS index holds {native.ntotal} vectors for {len(exact)} items")
        self._exact, self._native, self.settings = exact, native, settings

    @classmethod
    def flat(cls, vectors: Tensor, items: Tensor) -> FaissIndex:
        """Every inner product: the answers of ``ExactIndex``, ties included."""
        exact = ExactIndex(vectors.cpu(), items)
        native = import_faiss().IndexFlatIP(vectors.shape[1])
        native.add(exact.vectors.numpy())
        return cls(exact, native, {"kind": "faiss-flat"})

    @classmethod
    def ivf(
        cls,
        vectors: Tensor,
        items: Tensor,
        *,
        num_lists: int | None = None,
        num_probes: int = 16,
        vectors_per_list: int = 256,
    ) -> FaissIndex:
        """Inverted lists around k-means centres.

        Args:
            vectors: [M, D].
            items: item rows [M], int64.
            num_lists: number of lists; None = 4 sqrt(M). Lowered where there are too few vectors to train.
            num_probes: lists visited per query, more = slower and nearer to exact.
            vectors_per_list: so many vectors a list, at most, decide where its centre is; fewer = built faster.
        """
        if min(num_probes, vectors_per_list) < 1 or (num_lists is not None and num_lists < 1):
            raise ValueError(
                "num_lists, num_probes and vectors_per_list must be positive, "
                f"got {num_lists}, {num_probes} and {vectors_per_list}"
            )
        faiss = import_faiss()
        exact = ExactIndex(vectors.cpu(), items)
        wanted = num_lists if num_lists is not None else round(4 * len(exact) ** 0.5)
        lists = max(1, min(wanted, len(exact) // TRAIN_VECTORS_PER_LIST))
        native = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT
        )
        native.cp.max_points_per_centroid = vectors_per_list
        if len(exact):
            _fill_lists(native, exact.vectors)
        return cls(exact, native, {"kind": "faiss-ivf", "num_lists": lists, "num_probes": num_probes})

    @classmethod
    def hnsw(
        cls,
        vectors: Tensor,
        items: Tensor,
        *,
        links: int = 32,
        build_breadth: int = 100,
        search_breadth: int = 64,
    ) -> FaissIndex:
        """A navigable graph (Malkov & Yashunin, TPAMI 2020).

        Args:
            vectors: [M, D].
            items: item rows [M], int64.
            links: M of the paper, neighbours per vector.
            build_breadth: efConstruction of the paper.
            search_breadth: efSearch of the paper, raised to the number of items fetched where that is more.
        """
        if min(links, build_breadth, search_breadth) < 1:
            raise ValueError(
                f"links, build_breadth and search_breadth must be positive, "
                f"got {links}, {build_breadth} and {search_breadth}"
            )
        faiss = import_faiss()
        exact = ExactIndex(vectors.cpu(), items)
        native = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        native.hnsw.efConstruction = build_breadth
        native.add(exact.vectors.numpy())
        return cls(exact, native, {"kind": "faiss-hnsw", "search_breadth": search_breadth})

    @property
    def items(self) -> Tensor:
        """Item rows in the index [M], int64, ascending."""
        return self._exact.items

    @property
    def description(self) -> dict[str, Any]:
        """See ``ItemIndex``."""
        return dict(self.settings)

    def __len__(self) -> int:
        return len(self._exact)

    @torch.no_grad()
    def search(
        self, query_vectors: Tensor, k: int, exclude: Tensor | None = None, allow: Tensor | None = None
    ) -> Candidates:
        """The k best items for each query; see ``ItemIndex.search``.

        More than k + E are fetched, four times more in each further round for the queries that need it:
        those with fewer than k left, or whose k-th and last fetched score are equal, so that an unseen item
        could tie. After ``ROUNDS`` of them, or when all has been fetched, the rest is searched exactly.
        """
        check_search(query_vectors, k, exclude, self._exact.vectors.shape[1])
        queries = query_vectors.detach().to("cpu", torch.float32).contiguous()
        outside = None if exclude is None else exclude.cpu()
        allowed = None if allow is None else self._exact.allowed_positions(allow.cpu())
        total = len(self._exact) if allowed is None else len(allowed)
        if total == 0 or (allowed is not None and total < EXACT_SHARE * len(self._exact)):
            found = self._exact.search(queries, k, outside, allow)
            return Candidates(found.items.to(query_vectors.device), found.scores.to(query_vectors.device))
        hidden = torch.full((len(queries), 0), -1)
        if outside is not None and outside.shape[1]:
            hidden = self._exact.positions(outside)
            if allowed is not None:
                # only what is allowed can be lost to exclusion; position -1 reads the last slot, False
                reachable = torch.zeros(len(self._exact) + 1, dtype=torch.bool)
                reachable[allowed] = True
                hidden = torch.where(reachable[hidden], hidden, -1)
        selector = None if allowed is None else self._selector(allowed)
        items = torch.zeros((len(queries), k), dtype=torch.int64)
        scores = torch.full((len(queries), k), -torch.inf)
        left, fetch = torch.arange(len(queries)), min(total, k + hidden.shape[1] + 1)
        for widening in range(ROUNDS):
            unsettled = []
            for rows in left.split(max(1, SCORING_BYTES // (4 * queries.shape[1] * fetch))):
                columns = self._fetch(queries[rows], fetch, 4**widening, selector)
                got, got_scores, settled = self._settle(queries[rows], columns, hidden[rows], k, total)
                done = rows[settled]
                items[done, : got.shape[1]], scores[done, : got.shape[1]] = got[settled], got_scores[settled]
                unsettled.append(rows[~settled])
            left = torch.cat(unsettled)
            if not len(left) or fetch == total:
                break
            fetch = min(total, 4 * fetch)
        if len(left):  # FAISS could not answer them
            without = None if outside is None else outside[left]
            rest = self._exact.search(queries[left], k, without, allow)
            items[left], scores[left] = rest.items, rest.scores
        return Candidates(items.to(query_vectors.device), scores.to(query_vectors.device))

    def _selector(self, allowed: Tensor) -> Any:
        """A FAISS filter which lets only these positions through."""
        mask = np.zeros(len(self._exact), dtype=bool)
        mask[allowed.numpy()] = True
        return import_faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    def _fetch(self, queries: Tensor, fetch: int, wider: int, selector: Any) -> Tensor:
        """Positions [b, fetch] found by FAISS, -1 where it found none."""
        faiss, kind = import_faiss(), self.settings["kind"]
        if kind == "faiss-ivf":
            probes = min(self.settings["num_probes"] * wider, self.settings["num_lists"])
            parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        elif kind == "faiss-hnsw":
            breadth = max(self.settings["search_breadth"] * wider, fetch)
            parameters = faiss.SearchParametersHNSW(efSearch=breadth, sel=selector)
        else:
            parameters = faiss.SearchParameters(sel=selector)
        return torch.from_numpy(self._native.search(queries.numpy(), fetch, params=parameters)[1])

    def _settle(
        self, queries: Tensor, columns: Tensor, hidden: Tensor, k: int, total: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Item rows and scores [b, <= k] of what was fetched, and which queries are answered [b] bool."""
        columns = columns.sort(dim=1).values  # by item row, for the order of ties; -1 first
        absent = columns < 0
        # Scored as ExactIndex would: FAISS and torch round their sums differently.
        vectors = self._exact.vectors[columns]  # of position -1 too, which is then lost
        scores = torch.bmm(vectors, queries[:, :, None]).squeeze(2).masked_fill_(absent, torch.inf)
        lowest = scores.amin(dim=1)
        everything = columns.shape[1] - absent.sum(dim=1) >= total
        blocked, n_hidden = _among(columns, hidden)
        scores.masked_fill_(blocked.logical_or_(absent), -torch.inf)
        values, place = ordered_top(scores, min(k, columns.shape[1]))
        shown = values > -torch.inf
        items = self.items[columns.gather(1, place)].masked_fill_(~shown, 0)
        enough = shown.sum(dim=1) >= torch.clamp(total - n_hidden, max=k)
        clear = values[:, -1] > lowest
        return items, values, everything | (enough & clear)

    def save(self, directory: Path) -> None:
        """Write item rows, vectors and FAISS's own structure (safetensors), and a description (JSON)."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {"vectors": self._exact.vectors, "items": self.items}
        # a flat structure is nothing but the vectors: it is made again from them
        if self.settings["kind"] != "faiss-flat":
            tensors["faiss"] = torch.from_numpy(import_faiss().serialize_index(self._native))
        write_tensors(directory / TENSORS_FILE, tensors)
        description = {**self.description, "format_version": FORMAT_VERSION}
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> FaissIndex:
        """The index written by ``save``.

        Raises:
            ImportError: FAISS is not installed.
            ValueError: the index was written by a newer format, or is not a FAISS index.
        """
        faiss, description = import_faiss(), read_description(directory)
        del description["format_version"]
        if not str(description["kind"]).startswith("faiss-"):
            raise ValueError(f"{directory}: an index of kind {description['kind']!r}, not one of FAISS")
        tensors = load_file(directory / TENSORS_FILE)
        if description["kind"] == "faiss-flat":
            return cls.flat(tensors["vectors"], tensors["items"])
        native = faiss.deserialize_index(tensors["faiss"].numpy())
        return cls(ExactIndex(tensors["vectors"], tensors["items"]), native, description)


def _fill_lists(native: Any, vectors: Tensor) -> None:
    """Finds the centres of inverted lists, and puts every vector [M, D] into the list of the nearest.

    Of several processes one finds the centres and each the lists of a share of the vectors: 8 bytes an item are told.
    """
    if not is_share():
        native.train(vectors.numpy())
        native.add(vectors.numpy())
        return

    def centres(turn: Tensor) -> Tensor:
        if not len(turn):
            return vectors[:0]
        native.train(vectors.numpy())
        return torch.from_numpy(native.quantizer.reconstruct_n(0, native.nlist))

    def lists(own: Tensor) -> Tensor:
        return torch.from_numpy(native.quantizer.assign(own.numpy(), 1)[:, 0])

    found = by_shares(torch.zeros(1), centres)
    native.quantizer.reset()
    native.quantizer.add(found.numpy())
    native.is_trained = True
    nearest, pointer = by_shares(vectors, lists).numpy(), import_faiss().swig_ptr
    native.add_core(len(vectors), pointer(vectors.numpy()), None, pointer(nearest))


def _among(columns: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Which of ``columns`` [b, R] (ascending) are in ``hidden`` [b, E] (-1 = none), and how many distinct."""
    blocked = torch.zeros(columns.shape, dtype=torch.bool)
    n_hidden = torch.zeros(len(columns), dtype=torch.int64)
    if hidden.shape[1] == 0:
        return blocked, n_hidden
    ascending = hidden.sort(dim=1).values
    first = ascending >= 0
    first[:, 1:] &= ascending[:, 1:] != ascending[:, :-1]
    place = torch.searchsorted(ascending, columns).clamp(max=ascending.shape[1] - 1)
    return ascending.gather(1, place) == columns, first.sum(dim=1)


def open_index(directory: Path) -> ExactIndex | FaissIndex:
    """The index saved in ``directory``, whatever its kind; an ``ExactIndex`` where FAISS is not installed.

    Raises:
        ValueError: the index was written by a newer format.
    """
    if read_description(directory)["kind"] == "exact":
        return ExactIndex.load(directory)
    try:
        return FaissIndex.load(directory)
    except ImportError as error:
        exact = ExactIndex.load(directory)
        LOGGER.warning("%d items are searched exactly, which is slow: %s", len(exact), error)
        return exact
