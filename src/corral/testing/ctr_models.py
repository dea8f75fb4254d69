"""check_ctr_model: what a CTR model owes the ranker that asks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from corral.data.features import FeatureTable
from corral.ranking.ctr.ctr_model import FieldVectors
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.testing.rankers import check_ranker
from corral.testing.requirement import require, require_close
from corral.testing.small_world import seeded

# As ``corral.TwoStage(..., ctr_model=...)`` takes it, most simply the class itself:
# (field_size, num_context_fields, num_item_fields, *, num_extra=0) to a module.
MakeCtrModel = Callable[..., Any]

_QUERIES, _ITEMS, _LENGTH, _CONTEXT, _ITEM, _EXTRA = 4, 6, 5, 3, 2, 3


def ranked_by(make: MakeCtrModel, field_size: int = 8) -> Callable[[FeatureTable, FeatureTable], nn.Module]:
    """A ranker of small fields with the model in it, as ``check_ranker`` takes it."""

    def ranker(users: FeatureTable, items: FeatureTable) -> nn.Module:
        fields = Fields(users.rows, items.rows, users, items, field_size=field_size, embedding_std=0.5)
        return FieldRanker(fields, make(field_size, fields.num_context_fields, fields.num_item_fields))

    return ranker


def _inputs(field_size: int, uses_history: bool) -> tuple[FieldVectors, Tensor, Tensor, Tensor]:
    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=seeded(len(shape)), dtype=torch.float64)

    length = _LENGTH if uses_history else 0
    fields = FieldVectors(numbers(_QUERIES, 1, _CONTEXT, field_size), numbers(_QUERIES, _ITEMS, _ITEM, field_size))
    mask = torch.arange(length) >= torch.arange(_QUERIES)[:, None]
    return fields, numbers(_QUERIES, length, _ITEM, field_size), mask, numbers(_QUERIES, _ITEMS, _EXTRA)


@torch.no_grad()
def dense_inputs(make: MakeCtrModel, field_size: int = 8) -> None:
    """With ``num_extra`` inputs of each pair it reads them; evidence and the retriever's score come in there."""
    torch.manual_seed(0)
    model = make(field_size, _CONTEXT, _ITEM, num_extra=_EXTRA).double().eval()
    require(isinstance(getattr(model, "uses_history", None), bool), "a CTR model says uses_history: True or False")
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(5))
    fields, history, mask, extra = _inputs(field_size, model.uses_history)
    logits = model(fields, history, mask, extra)
    require(logits.shape == (_QUERIES, _ITEMS), f"a CTR model gives logits [B, N], not {list(logits.shape)}")
    require(logits.isfinite().all(), "logits are finite")
    for column in range(_EXTRA):
        other = extra.clone()
        other[..., column] += 1.0
        changed = model(fields, history, mask, other)
        require(not torch.equal(changed, logits), f"dense input {column} of {_EXTRA} (num_extra) changes no logit")


@torch.no_grad()
def masked_slots_count_for_nothing(make: MakeCtrModel, field_size: int = 8) -> None:
    """What stands in the history where the mask is False is no item."""
    torch.manual_seed(0)
    model = make(field_size, _CONTEXT, _ITEM).double().eval()
    fields, history, mask, _ = _inputs(field_size, model.uses_history)
    other = torch.where(mask[..., None, None], history, 7.0)
    promise = "history slots whose mask is False count for nothing"
    require_close(model(fields, other, mask), model(fields, history, mask), promise, rtol=0)


def check_ctr_model(make: MakeCtrModel, *, field_size: int = 8) -> None:
    """All checks: of the model alone, and of a ranker with it (``check_ranker``).

    Args:
        make: as ``corral.TwoStage(..., ctr_model=...)`` takes it: ``make(field_size, num_context_fields,
            num_item_fields, num_extra=0)``.
        field_size: D.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    dense_inputs(make, field_size)
    masked_slots_count_for_nothing(make, field_size)
    check_ranker(ranked_by(make, field_size))
