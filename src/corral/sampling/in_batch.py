"""In-batch negatives as a proposal: the items of recent batches, by their running share of events."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.whole_batch import gathered
from corral.sampling.catalogue import Catalogue
from corral.sampling.sampler import Sample


class InBatchSampler(nn.Module):
    """Draws an item of one of the last batches: c_i of the last W events were of item i.

    Q(i) = (1 - u) c_i / W + u / M, the same for every query: with probability 1 - u one of the W events, each
    alike, else one of the M items. The second part lets every item be drawn, also those without a recent
    event; before the first batch it is all there is. Given the window that is exactly what is drawn, and it
    sums to 1; over the course of training c_i / W follows the item's share of events, for which the usual
    log-Q correction of in-batch negatives stands (Yi et al., RecSys 2019). With a window of one batch these
    are the negatives of that batch alone.

    The objective calls :meth:`update` with the clicked items of every training batch. Cost of an update O(B),
    of a draw O(1), whatever M; memory O(M + W), all of it in ``state_dict()``.

    Args:
        catalogue: item rows [M], int64.
        window: W, events remembered.
        uniform_share: u, in (0, 1].

    Raises:
        ValueError: an argument out of its range.
    """

    normalised: bool = True

    events: Tensor
    counts: Tensor
    seen: Tensor

    def __init__(self, catalogue: Tensor, *, window: int = 65_536, uniform_share: float = 0.01) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"the window needs at least one event, got {window}")
        if not 0 < uniform_share <= 1:
            raise ValueError(f"uniform_share must be in (0, 1], got {uniform_share}: else some items are never drawn")
        self.catalogue = Catalogue(catalogue)
        self.window, self.uniform_share = window, uniform_share
        # Catalogue positions of the last events, the oldest overwritten first; how often each is there.
        self.register_buffer("events", torch.zeros(window, dtype=torch.int64, device=catalogue.device))
        self.register_buffer("counts", torch.zeros_like(catalogue))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64, device=catalogue.device))

    def refresh(self, item_vectors: Tensor) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def observe(self, items: Tensor) -> None:
        """Takes the clicked items [...] of a batch, in their order; rows outside the catalogue do not count."""
        positions = self.catalogue.positions(gathered(items.flatten()))
        positions = positions[positions >= 0][-self.window :]
        slots = (self.seen + torch.arange(len(positions), device=positions.device)) % self.window
        forgotten = self.events[slots][slots < self.seen]
        self.counts.index_add_(0, forgotten, torch.full_like(forgotten, -1))
        self.counts.index_add_(0, positions, torch.ones_like(positions))
        self.events[slots] = positions
        self.seen += len(positions)

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n draws per query [B, N]."""
        shape = (3, len(query_vectors), n)
        uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        uniform = uniform.to(self.events.device)
        filled = self.seen.clamp(max=self.window)
        slot = torch.minimum((uniform[1] * filled).long(), (filled - 1).clamp(min=0))
        anywhere = (uniform[2] * len(self.catalogue)).long().clamp(max=len(self.catalogue) - 1)
        at = torch.where(uniform[0] < self._uniform_share(), anywhere, self.events[slot])
        items = self.catalogue.items[at]
        return Sample(items, self.log_q(query_vectors, items))

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """Log-probability of each item [B, N]."""
        position = self.catalogue.positions(items)
        share = self._uniform_share()
        filled = self.seen.clamp(1, self.window)
        probability = (1 - share) * self.counts[position].double() / filled + share / len(self.catalogue)
        return probability.log().float().masked_fill(position < 0, -torch.inf)

    def _uniform_share(self) -> Tensor:
        """u, or 1 before the first event; float64 scalar."""
        return torch.where(self.seen > 0, self.uniform_share, 1.0).double()
