"""Exposure as an ordinary second head: RAR's other loss without look-alikes, recall items or anything at inference.

The control that asks how much of RAR is the exposure label alone. Shape letters: B examples, n draws, H tower size,
Du, Di sizes of the concatenated fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.batches import Batch
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.ranker import FieldRanker
from corral.rar.co_interaction import Tower
from corral.rar.exposure import PairLog
from corral.sampling.uniform import UniformSampler
from corral.training.losses import click_loss, full_precision, weighted_mean


class ExposureHeadObjective(nn.Module):
    """L = alpha BCE(y, y_hat) + (1 - alpha) BCE(was the pair exposed, head), as RAR weighs its two losses.

    The head is one cell of RAR's matrix, of the target itself: <user tower, item tower> / sqrt(H) + b, on the ranker's
    own embeddings of user and item; through them alone it teaches the ranker. Its examples are the batch's own
    pairs, exposed where the log shows them by their time (sampled negatives are not), and for each ``num_draws`` items
    drawn uniformly from the catalogue, not exposed; what the user met before is left out. Mean over the cells of an
    example, then over the batch. The head belongs to the objective: the trained ranker knows nothing of it.

    Args:
        ranker: what learns.
        exposures: what the train log shows.
        catalogue: item rows to draw from [M].
        alpha: weight of the click loss, in (0, 1).
        num_draws: n.
        tower_size: H.
        seed: of the draws.
    """

    def __init__(
        self,
        ranker: FieldRanker | EvidenceRanker,
        exposures: PairLog,
        catalogue: Tensor,
        *,
        alpha: float = 0.9,
        num_draws: int = 10,
        tower_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha={alpha}: must be in (0, 1); without an exposure loss use ClickObjective")
        if num_draws < 1:
            raise ValueError(f"num_draws={num_draws}: the head needs at least one pair that was not exposed")
        fields = ranker.fields
        if not len(fields.users):
            raise ValueError("the exposure head needs fields of users: their ids or features")
        self.ranker, self.alpha, self.num_draws = ranker, alpha, num_draws
        sizes = (len(entity) * fields.field_size for entity in (fields.users, fields.catalogue))
        self.user_tower, self.item_tower = (Tower(size, tower_size) for size in sizes)
        self.scale = 1.0 / math.sqrt(tower_size)
        # One pair in 1 + n is exposed.
        self.bias = nn.Parameter(torch.tensor(-math.log(num_draws)))
        self.sampler = UniformSampler(catalogue)
        # The log is data: it is not saved with the weights.
        self._exposures = lambda: exposures
        self.generator = torch.Generator().manual_seed(seed)

    def refresh(self) -> None:
        """Nothing is derived from the weights."""

    def generators(self) -> Mapping[str, torch.Generator]:
        """That of the draws."""
        return {"exposure_draws": self.generator}

    def head(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of exposure [B, n] of user rows [B] and item rows [B, n]."""
        fields = self.ranker.fields
        asked = self.user_tower(fields.users(users, keep_ids=True).flatten(1))
        shown = self.item_tower(fields.catalogue(items, keep_ids=True).flatten(2))
        return torch.bmm(shown, asked[:, :, None]).squeeze(2) * self.scale + self.bias

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch: ``click``, ``exposure`` and their weighted ``total``; nats."""
        query = batch.query
        click = click_loss(self.ranker(query, batch.item[:, None])[:, 0], batch.label, batch.weight)
        drawn = self.sampler.sample(query.user[:, None], self.num_draws, self.generator).items
        met, _ = self._exposures().before(query.user[:, None], drawn, query.time[:, None])
        exposed, _ = self._exposures().before(query.user, batch.item, query.time + 1)
        items = torch.cat([batch.item[:, None], drawn], 1)
        labels = torch.cat([exposed[:, None], torch.zeros_like(met)], 1)
        cells = torch.cat([torch.ones_like(exposed)[:, None], ~met & (drawn != batch.item[:, None])], 1)
        logits = full_precision(self.head(query.user, items))
        losses = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
        exposure = weighted_mean((losses * cells).sum(1) / cells.sum(1))
        return {"total": self.alpha * click + (1.0 - self.alpha) * exposure, "click": click, "exposure": exposure}
