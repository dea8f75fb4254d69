from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.ranking.ctr.fm import FM, fm_logits


def plain_fm(context: np.ndarray, items: np.ndarray) -> float:
    """All pairs, one after the other, of fields [F, D] = [w ; v]."""
    fields = np.concatenate([context, items])
    logit = float(fields[:, 0].sum())
    for a in range(len(fields)):
        for b in range(a + 1, len(fields)):
            logit += float(fields[a, 1:] @ fields[b, 1:])
    return logit


def test_equals_all_pairs(vectors) -> None:
    fields, history, mask = vectors()
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = FM(5, 2, 3, num_extra=2).double()
    torch.nn.init.normal_(model.bias)
    got = model(fields, history, mask, extra)
    bare = fm_logits(fields)
    for b in range(4):
        for n in range(6):
            want = plain_fm(fields.context[b, 0].numpy(), fields.items[b, n].numpy())
            assert abs(bare[b, n].item() - want) < 1e-10
            want += model.bias.item() + float(model.extra.weight[0].detach() @ extra[b, n])
            assert abs(got[b, n].item() - want) < 1e-10


def test_a_query_without_context_fields(vectors) -> None:
    fields, _, _ = vectors(num_context=0)
    want = plain_fm(np.zeros((0, 5)), fields.items[1, 2].numpy())
    assert abs(fm_logits(fields)[1, 2].item() - want) < 1e-10


def test_learns_exclusive_or(exclusive_or) -> None:
    assert exclusive_or(lambda fields: FM(6, fields.num_context_fields, fields.num_item_fields), 6) > 0.95


def test_refuses_fields_without_a_factor() -> None:
    with pytest.raises(ValueError, match="field_size >= 2"):
        FM(1, 1, 1)
