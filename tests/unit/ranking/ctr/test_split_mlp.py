from __future__ import annotations

import pytest
import torch
from torch import nn

from corral.ranking.ctr.split_mlp import CandidateBatchNorm, QueryDropout, SplitMlp


@pytest.mark.parametrize("hidden", [(7,), (7, 4), (9, 8, 3)])
def test_equals_the_mlp_over_the_concatenation(hidden: tuple[int, ...]) -> None:
    mlp = SplitMlp(4, 3, hidden).double()
    context = torch.randn(5, 1, 4, dtype=torch.float64)
    items = torch.randn(5, 6, 3, dtype=torch.float64)
    rows = torch.cat([context.expand(-1, 6, -1), items], dim=-1)
    for layer in mlp.layers:
        rows = torch.relu(layer(rows))
    torch.testing.assert_close(mlp(context, items), rows, rtol=0, atol=1e-12)


def test_either_side_may_be_empty() -> None:
    context, items = torch.randn(2, 1, 4), torch.randn(2, 6, 3)
    assert SplitMlp(0, 3, (5,))(context[..., :0], items).shape == (2, 6, 5)
    assert SplitMlp(4, 0, (5,))(context, items[..., :0]).shape == (2, 6, 5)


def test_dropout_is_one_mask_a_query() -> None:
    dropout = QueryDropout(0.5)
    ones = torch.ones(200, 3, 40)
    dropped = dropout(ones)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert abs(dropped.mean().item() - 1.0) < 0.05
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(dropout.eval()(ones), ones)


def test_batch_norm_equals_the_plain_one_and_takes_a_single_row() -> None:
    norm, plain = CandidateBatchNorm(4), nn.BatchNorm1d(4)
    rows = torch.randn(5, 6, 4)
    torch.testing.assert_close(norm(rows), plain(rows.view(30, 4)).view(5, 6, 4))
    before = norm.running_mean.clone()
    single = norm(rows[:1, :1])
    assert single.isfinite().all()
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(single, norm.eval()(rows[:1, :1]))


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        SplitMlp(4, 3, ())
    with pytest.raises(ValueError, match=r"1\.5"):
        SplitMlp(4, 3, (2,), dropout=1.5)
