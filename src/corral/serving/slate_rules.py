"""SlateRules: what a request asks of its lists as wholes, and the candidates that make it possible without losing k.

Shape letters: B lists, N candidates, T list length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.vocabulary import FIRST_ROW, Vocabulary
from corral.evaluation.metrics import ranked, ranking_order
from corral.retrieval.retriever import Retriever
from corral.serving.filters import Ids, allow_mask
from corral.serving.slate import choose_slate

Recall = Callable[[Query, int, Tensor | None, Tensor | None], Candidates]
# Items of one deeper search: a bound on its memory.
MOST_SEARCHED = 1 << 24


@dataclass(frozen=True)
class SlateRules:
    """Rules for a list as a whole. They never shorten a list while the catalogue has items that obey them.

    Attributes:
        diversity: lambda of MMR, in [0, 1]: 0 the order of the scores, 1 unlikeness alone; see ``choose_slate``.
            The items' vectors are the retriever's. Chosen among the candidates that the ranker saw.
        at_most: a categorical item feature, and how many items of one value of it a list may hold. Items without
            a value are not bounded.
        min_new: how many new items a list holds at least, while there are so many.
        new: external ids of the items that are new; None = those without a train event, which ``add_items``
            brought.
    """

    diversity: float = 0.0
    at_most: tuple[str, int] | None = None
    min_new: int = 0
    new: Ids | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.diversity <= 1.0:
            raise ValueError(f"diversity {self.diversity}: must lie in 0..1 (0: the order of the scores)")
        if self.at_most is not None and self.at_most[1] < 1:
            raise ValueError(
                f"at_most {self.at_most[0]}={self.at_most[1]}: a list must be allowed at least 1 of a value"
            )
        if self.min_new < 0:
            raise ValueError(f"min_new {self.min_new}: must be at least 0")

    def slates(self, items: Vocabulary, features: FeatureTable, counts: Tensor, indexed: Tensor) -> Slates:
        """The rules by item row.

        Args:
            items: the item vocabulary.
            features: of the items.
            counts: train events by item row.
            indexed: item rows that can be recommended, int64.

        Raises:
            ValueError: no such feature, or not a categorical one; or ids of the wrong type.
        """
        groups = None
        if self.at_most is not None:
            column = bounded_column(features, self.at_most[0])
            values = torch.from_numpy(np.asarray(column.values, dtype=np.int64))
            groups = torch.where(values >= FIRST_ROW, values, 0).to(indexed.device)
        new = counts == 0 if self.new is None else allow_mask(items, self.new, None)
        assert new is not None
        return Slates(self, groups, new.to(indexed.device), indexed)


@dataclass(frozen=True)
class Slates:
    """``SlateRules`` for one catalogue.

    Attributes:
        rules: as asked.
        groups: the bounded feature's value by item row, 0 = none; None: no bound.
        new: which item rows are new, bool.
        indexed: item rows that can be recommended.
    """

    rules: SlateRules
    groups: Tensor | None
    new: Tensor
    indexed: Tensor

    def pool(
        self, recall: Recall, query: Query, k: int, wide: int, exclude: Tensor | None, allow: Tensor | None
    ) -> Candidates:
        """Stage 1's ``wide`` candidates, and behind them the first deeper ones that a list of k needs.

        Args:
            recall: stage 1.
            query: B queries.
            k: T.
            wide: how many candidates there would be without rules.
            exclude: item rows never to return [B, E]; None = none.
            allow: by item row, bool; None = all.

        Returns:
            [B, N] by score, without repeats; the last column is padding.
        """
        found = [recall(query, wide, exclude, allow)]
        if self.groups is not None:
            found.append(self._first_fitting(recall, query, k, exclude, allow))
        if self.rules.min_new:
            new = self.new if allow is None else self.new & allow
            found.append(self._first_fitting(recall, query, min(k, self.rules.min_new), exclude, new))
        items = functional.pad(torch.cat([one.items for one in found], dim=1), (0, 1))
        scores = functional.pad(torch.cat([one.scores for one in found], dim=1), (0, 1), value=-torch.inf)
        ordered, place = items.sort(dim=1, stable=True)
        again = torch.zeros_like(items, dtype=torch.bool)
        again.scatter_(1, place[:, 1:], ordered[:, 1:] == ordered[:, :-1])
        return ranked(items.masked_fill(again, 0), scores)

    def order(self, candidates: Candidates, final: Tensor, k: int, retriever: Retriever) -> Tensor:
        """Columns [B, T] of the candidates shown; see ``choose_slate``.

        Args:
            candidates: from ``pool``.
            final: the scores that are served [B, N].
            k: T.
            retriever: in eval mode.
        """
        by_score = ranking_order(candidates.items, final)
        items = candidates.items.gather(1, by_score)
        vectors = None
        if self.rules.diversity:
            vectors = functional.normalize(retriever.encode_items(items).float(), dim=-1)
        columns = choose_slate(
            Candidates(items, final.gather(1, by_score)),
            k,
            diversity=self.rules.diversity,
            vectors=vectors,
            groups=None if self.groups is None else self.groups[items],
            most_of_group=self._most,
            new=self.new[items],
            min_new=self.rules.min_new,
        )
        return by_score.gather(1, columns)

    @property
    def _most(self) -> int:
        return 0 if self.rules.at_most is None else self.rules.at_most[1]

    def _first_fitting(
        self, recall: Recall, query: Query, k: int, exclude: Tensor | None, allow: Tensor | None
    ) -> Candidates:
        """The first k of stage 1's order that obey the bound on groups [B, k]; fewer where there are no more."""
        k = max(1, min(k, self._reachable(allow)))
        return self._searched(recall, query, k, k, exclude, allow)

    def _reachable(self, allow: Tensor | None) -> int:
        """The longest list that the bound allows: nobody need look for a longer one."""
        rows = self.indexed if allow is None else self.indexed[allow[self.indexed]]
        if self.groups is None:
            return len(rows)
        sizes = torch.bincount(self.groups[rows], minlength=1)
        return int(sizes[0] + sizes[1:].clamp(max=self._most).sum())

    def _searched(
        self, recall: Recall, query: Query, k: int, depth: int, exclude: Tensor | None, allow: Tensor | None
    ) -> Candidates:
        """As ``_first_fitting``, at first among the ``depth`` best; lists that need more look twice as deep."""
        found = recall(query, depth, exclude, allow)
        if self.groups is None:
            return found
        fits = _place_in_group(self.groups[found.items]) < self._most
        fits |= self.groups[found.items] == 0
        kept = ranked(found.items.masked_fill(~fits, 0), found.scores).top(k)
        short = (found.mask[:, -1] & ~kept.mask[:, -1]).nonzero().squeeze(1)
        rows = max(1, MOST_SEARCHED // (2 * depth))
        for start in range(0, len(short), rows):
            there = torch.zeros(len(query), dtype=torch.bool, device=short.device)
            there[short[start : start + rows]] = True
            hidden = None if exclude is None else exclude[there]
            deeper = self._searched(recall, query.where(there), k, 2 * depth, hidden, allow)
            kept.items[there], kept.scores[there] = deeper.items, deeper.scores
        return kept


def bounded_column(items: FeatureTable, name: str) -> FeatureColumn:
    """The item feature of whose values a list may hold at most so many.

    Raises:
        ValueError: there is none of the name, or it is not categorical.
    """
    column = items.columns.get(name)
    if column is None or column.kind is not FeatureKind.CATEGORICAL:
        known = [one.name for one in items.columns.values() if one.kind is FeatureKind.CATEGORICAL]
        what = "no such item feature" if column is None else f"a {column.kind} item feature"
        raise ValueError(f"at_most {name!r}: {what}; categorical ones: {', '.join(known) or 'none'}")
    return column


def _place_in_group(groups: Tensor) -> Tensor:
    """How many of the same group stand before each entry of [B, N]."""
    ordered, order = groups.sort(dim=1, stable=True)
    place = torch.arange(groups.shape[1], device=groups.device).expand_as(groups)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    start = torch.where(first, place, 0).cummax(dim=1).values
    return torch.empty_like(groups).scatter_(1, order, place - start)
