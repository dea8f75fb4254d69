"""Keys: what the selector compares. RAR pays where they hold what the ranker's own tables do not.

Shape letters: U user rows, M item rows, D key size, S snapshots.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.features import FeatureKind, FeatureTable
from corral.data.whole_batch import by_shares
from corral.ranking.fields import Fields


class KeySource(Protocol):
    """A vector of every user and every item, as of a snapshot; zero where nothing is known.

    Attributes:
        live: they change while the ranker trains, so that neighbours must be chosen again at every refresh.
    """

    live: bool

    def users(self, snapshot: int) -> Tensor:
        """[U, D]."""
        ...

    def items(self, snapshot: int) -> Tensor:
        """[M, D], D may differ from that of users."""
        ...


class GivenKeys(nn.Module):
    """Vectors made elsewhere: side information, or another model's, snapshot by snapshot.

    Args:
        users: [S, U, D], or [U, D] for all snapshots alike.
        items: [S, M, D], or [M, D].
    """

    live = False
    user_vectors: Tensor
    item_vectors: Tensor

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self.register_buffer("user_vectors", users.float())
        self.register_buffer("item_vectors", items.float())

    def users(self, snapshot: int) -> Tensor:
        """See ``KeySource``."""
        return self.user_vectors if self.user_vectors.ndim == 2 else self.user_vectors[snapshot]

    def items(self, snapshot: int) -> Tensor:
        """See ``KeySource``."""
        return self.item_vectors if self.item_vectors.ndim == 2 else self.item_vectors[snapshot]


class OwnTables:
    """The ranker's own field vectors: the paper's reading. They have seen every train row: rule ``static`` only."""

    live = True

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    @torch.no_grad()
    def users(self, snapshot: int) -> Tensor:
        """See ``KeySource``."""
        return self._whole(self._fields.users)

    @torch.no_grad()
    def items(self, snapshot: int) -> Tensor:
        """See ``KeySource``."""
        return self._whole(self._fields.catalogue)

    @staticmethod
    def _whole(entity: nn.Module) -> Tensor:
        parameter = next(entity.parameters())
        rows = torch.arange(int(entity.num_rows), device=parameter.device)  # type: ignore[arg-type]
        training = entity.training
        entity.eval()  # ids are not dropped
        vectors = torch.cat([by_shares(part, lambda own: entity(own).flatten(1)) for part in rows.split(1 << 16)])
        entity.train(training)
        return vectors


def feature_keys(table: FeatureTable, max_values: int = 16) -> Tensor:
    """Side features of users or items as vectors [rows, D]: categories one-hot, several values shared, numbers scaled.

    Args:
        table: the features.
        max_values: values of a multi-valued feature that count.

    Raises:
        ValueError: no feature but texts.
    """
    parts = []
    for column in table.columns.values():
        if column.kind is FeatureKind.NUMERIC:
            values = torch.tensor(np.asarray(column.values, dtype=np.float32))
            present = torch.isfinite(values)
            known = values[present]
            spread = known.std() if len(known) > 1 else torch.ones(())
            centre = known.mean() if len(known) else torch.zeros(())
            parts.append(torch.where(present, (values - centre) / spread.clamp(min=1e-6), 0.0)[:, None])
        elif column.kind in (FeatureKind.CATEGORICAL, FeatureKind.MULTI):
            single = column.kind is FeatureKind.CATEGORICAL
            raw = np.asarray(column.values)[:, None] if single else column.padded(max_values)
            codes = torch.tensor(np.asarray(raw, dtype=np.int64))
            hot = torch.zeros(len(codes), column.cardinality).scatter_add_(1, codes, torch.ones(codes.shape))
            hot[:, 0] = 0.0  # missing
            parts.append(functional.normalize(hot, dim=1))
    if not parts:
        raise ValueError("keys=features: there are no features to compare")
    return torch.cat(parts, 1)
