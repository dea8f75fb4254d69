"""WhatIf: how the ranker's logits change when it is not told of the history, the look-alikes or the recall items.

Shape letters: B queries, N items per query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from corral.data.batches import Query
from corral.ranking.ranker import Ranker
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.studio.masked_ranker import Mask, MaskedRanker, Source, sources_of


@dataclass(frozen=True)
class WhatIf:
    """The same logits with and without each source: logits = bare + total + remainder.

    Attributes:
        logits: with all sources [B, N].
        without: with all but one, by that one [B, N] each.
        bare: with none of them [B, N]: what user, item and request say by themselves.
    """

    logits: Tensor
    without: Mapping[Source, Tensor]
    bare: Tensor

    @property
    def changes(self) -> dict[Source, Tensor]:
        """What each source brings to those that are there already [B, N] each."""
        return {source: self.logits - masked for source, masked in self.without.items()}

    @property
    def total(self) -> Tensor:
        """The sum of the changes [B, N]."""
        return torch.stack(list(self.changes.values())).sum(0)

    @property
    def remainder(self) -> Tensor:
        """What the sources bring together beyond the sum of the changes [B, N].

        It adds what several sources know, of which none is missed alone, and takes back what only several say
        together, which is in the change of each: look-alikes and recall items count only as they match.
        """
        return self.logits - self.bare - self.total


@torch.no_grad()
def what_if(ranker: Ranker, query: Query, items: Tensor, mask: Mask | None = None) -> WhatIf:
    """Asks the ranker again with each source masked, and with all of them.

    Args:
        ranker: of any kind; of one that is not RAR's the history alone can be masked.
        query: B queries.
        items: item rows [B, N].
        mask: what is left out everywhere.
    """
    mask, sources = mask or Mask(), sources_of(ranker)

    def logits(*hidden: Source) -> Tensor:
        return MaskedRanker(ranker, mask.without(*hidden))(query, items).double()

    with evaluation_mode(ranker):
        return WhatIf(logits(), {source: logits(source) for source in sources}, logits(*sources))
