"""IndexRule: which index a catalogue is searched with: exact up to a size, beyond it FAISS, as wide as a recall asks.

Shape letters: B queries, M items, D vector size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from corral.data.candidates import Candidates
from corral.retrieval.faiss_index import LOGGER, FaissIndex
from corral.retrieval.index import ExactIndex, ItemIndex

# Enough for centres that lists can be made of; FAISS's own 256 takes minutes for a million items.
TRAIN_VECTORS = 64


@dataclass(frozen=True)
class IndexRule:
    """Exact search reads every vector; beyond a size FAISS's inverted lists read few, and miss some items.

    Attributes:
        exact_up_to: items; a larger catalogue is searched by FAISS, where it is installed.
        min_recall: share of the exact lists that FAISS must find. Measured with real queries when the index is
            built: lists are visited, 16 of them at first and then twice as many, until it does.
    """

    exact_up_to: int = 100_000
    min_recall: float = 0.95

    def __post_init__(self) -> None:
        if self.exact_up_to < 0 or not 0.0 < self.min_recall <= 1.0:
            raise ValueError(
                "exact_up_to must not be negative and min_recall must lie in 0..1, "
                f"got {self.exact_up_to} and {self.min_recall}"
            )

    def build(self, vectors: Tensor, items: Tensor, queries: Tensor, k: int) -> ItemIndex:
        """The index of a catalogue; its ``description`` says what was measured.

        Args:
            vectors: of the items [M, D].
            items: their rows [M], int64.
            queries: to measure with [B, D]; without any FAISS would be searched blindly, so the index is exact.
            k: how many items a search will ask for.
        """
        exact = ExactIndex(vectors, items)
        if len(items) <= self.exact_up_to or not len(queries):
            return exact
        try:
            index = FaissIndex.ivf(vectors, items, vectors_per_list=TRAIN_VECTORS)
        except ImportError as error:
            LOGGER.warning("%d items are searched exactly, which is slow: %s", len(items), error)
            return exact
        wanted = exact.search(queries, k)
        settings = index.settings
        while (found := _recall(index.search(queries, k), wanted)) < self.min_recall:
            if settings["num_probes"] >= settings["num_lists"]:
                break
            settings["num_probes"] = min(2 * settings["num_probes"], settings["num_lists"])
        settings |= {"recall": round(found, 4), "recall_at": k, "recall_queries": len(queries)}
        return index


def _recall(found: Candidates, wanted: Candidates) -> float:
    """The share of the wanted items that were found."""
    hits = (wanted.items[:, :, None] == found.items[:, None, :]).any(2) & wanted.mask
    return float(hits.sum() / wanted.mask.sum())
