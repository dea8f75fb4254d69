"""Catalogue: the item rows a sampler draws from, and where each row stands among them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.vocabulary import FIRST_ROW


class Catalogue(nn.Module):
    """Item rows [M] in a fixed order, and the way back from a row to its position.

    Nothing of it is in ``state_dict()``: it is made from the constructor's argument.

    Args:
        items: item rows [M], int64, each at least 2 (rows 0 and 1 are padding and unknown), without repeats.

    Raises:
        ValueError: no rows, a reserved row, a repeated row, or not a list of int64.
    """

    items: Tensor
    position: Tensor

    def __init__(self, items: Tensor) -> None:
        super().__init__()
        if items.ndim != 1 or items.dtype != torch.int64:
            raise ValueError(f"a catalogue is item rows [M], int64, got {list(items.shape)}, {items.dtype}")
        if len(items) == 0:
            raise ValueError("an empty catalogue cannot be sampled from")
        if int(items.min()) < FIRST_ROW:
            raise ValueError(f"item row {int(items.min())} is reserved; a catalogue holds rows from {FIRST_ROW} on")
        # One slot more than there are rows: every row beyond the table is looked up there.
        position = torch.full((int(items.max()) + 2,), -1, device=items.device)
        position[items] = torch.arange(len(items), device=items.device)
        if not torch.equal(position[items], torch.arange(len(items), device=items.device)):
            raise ValueError("a catalogue holds every item row once; these repeat")
        self.register_buffer("items", items, persistent=False)
        self.register_buffer("position", position, persistent=False)

    def __len__(self) -> int:
        """M."""
        return len(self.items)

    def positions(self, items: Tensor) -> Tensor:
        """Where item rows [...] stand in the catalogue [...], int64; -1 for rows it does not hold."""
        return self.position[items.clamp(0, len(self.position) - 1)]

    def check_vectors(self, item_vectors: Tensor, size: int | None = None) -> None:
        """Refuses vectors no proposal can be built from.

        Args:
            item_vectors: what ``refresh`` was given; should be [M, D].
            size: D, where it is known.

        Raises:
            ValueError: another shape, or a vector that is not finite.
        """
        right = item_vectors.ndim == 2 and len(item_vectors) == len(self) and size in (None, item_vectors.shape[1])
        if not right:
            want = "D" if size is None else size
            raise ValueError(f"need item vectors [{len(self)}, {want}], got {list(item_vectors.shape)}")
        finite = torch.isfinite(item_vectors).all(dim=1)
        if not bool(finite.all()):
            row = int(self.items[~finite.to(self.items.device)][0])
            raise ValueError(f"the vector of item row {row} is not finite; lower the learning rate")
