"""The seam of stage 2: what a CTR model sees and what it returns.

Shape letters: B queries, N items per query, L history length, Fc context fields, Fi item fields, Fh history
fields, D field size, E extra inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class FieldVectors:
    """Embedded fields of B queries and their N items each.

    Attributes:
        context: [B, 1, Fc, D]: what depends on the query alone. The axis of size 1 is broadcast over the
            items and never copied where algebra permits.
        items: [B, N, Fi, D]: what depends on the item. The first Fh of them are the fields a history slot
            has.
    """

    context: Tensor
    items: Tensor

    def __post_init__(self) -> None:
        assert self.context.dim() == 4, self.context.shape
        assert self.items.dim() == 4, self.items.shape
        assert self.context.shape[0] == self.items.shape[0], (self.context.shape, self.items.shape)
        assert self.context.shape[1] == 1, self.context.shape


class CtrModel(Protocol):
    """Fields in, logits out; knows nothing of rows, tables or queries.

    Every model is built as ``Model(field_size, num_context_fields, num_item_fields, *, ..., num_extra=0)``.

    Attributes:
        uses_history: False where the model ignores ``history``; the ranker then passes one of length 0.
    """

    uses_history: bool

    def __call__(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """Logits of a click.

        Args:
            fields: the embedded fields.
            history: history vectors [B, L, Fh, D], in the order of the first Fh item fields.
            mask: [B, L] bool, True where the history has an item.
            extra: dense inputs of each (query, item) pair [B, N, E], E = ``num_extra``; None if that is 0.

        Returns:
            [B, N]; a logit depends on its own item and the query, never on the other items.
        """
        ...


def check_extra(extra: Tensor | None, num_extra: int) -> None:
    """Refuse extra inputs of another width than the model was built for."""
    given = 0 if extra is None else extra.shape[-1]
    if given != num_extra:
        raise ValueError(f"the CTR model was built with num_extra={num_extra}, but extra has {given} columns")
