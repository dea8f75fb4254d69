"""ExactIndex beyond the contract: the fast top-k on long rows, and blocks that change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from corral.retrieval.index import ExactIndex, ItemIndex, ordered_top


def by_sorting(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, columns = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], columns[:, :k]


@pytest.mark.parametrize("m", [1, 9, 1_000, 8_192, 8_195, 20_001])
@pytest.mark.parametrize("levels", [1, 3, 50, 10_000, 0], ids=lambda levels: f"{levels}-levels")
def test_ordered_top_is_a_stable_sort(m: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(m + levels)
    scores = torch.randn((4, m), generator=generator)
    if levels:
        scores = torch.randint(-levels, levels + 1, (4, m), generator=generator).float()
    scores[1, ::2] = -torch.inf
    scores[2, 1:] = -torch.inf
    for k in {1, min(20, m), min(257, m), m if m < 10_000 else 5}:
        values, columns = ordered_top(scores, k)
        wanted, wanted_columns = by_sorting(scores, k)
        assert torch.equal(values, wanted)
        real = wanted > -torch.inf
        assert torch.equal(columns[real], wanted_columns[real])


def test_blocks_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    # small whole numbers: sums are exact in any order, so answers must be equal to the bit
    vectors = torch.randint(-3, 4, (20_000, 6), generator=generator).float()
    queries = torch.randint(-3, 4, (37, 6), generator=generator).float()
    exclude = torch.randint(0, 20_100, (37, 300), generator=generator)
    allow = torch.rand(19_000, generator=generator) < 0.7
    items = torch.arange(2, 20_002)
    whole = ExactIndex(vectors, items)
    for chunk, score_bytes in ((20_000, 4 * 20_000 * 5), (9_001, 1), (512, 4 * 512 * 11)):
        blocked = ExactIndex(vectors, items, chunk=chunk, score_bytes=score_bytes)
        for only in (None, allow):
            one, two = whole.search(queries, 100, exclude, only), blocked.search(queries, 100, exclude, only)
            assert torch.equal(one.items, two.items)
            assert torch.equal(one.scores, two.scores)


def test_protocol_and_positions() -> None:
    index = ExactIndex(torch.eye(3), torch.tensor([9, 4, 6]))
    assert isinstance(index, ItemIndex)
    assert index.items.tolist() == [4, 6, 9]
    assert index.vectors.argmax(dim=1).tolist() == [1, 2, 0]
    asked = torch.tensor([[4, 9], [0, 5], [100, -1]])
    assert index.positions(asked).tolist() == [[0, 2], [-1, -1], [-1, -1]]
    assert index.search(torch.eye(3), 1).items[:, 0].tolist() == [9, 4, 6]


def test_gradients_do_not_reach_the_snapshot() -> None:
    vectors = torch.randn(5, 3, requires_grad=True)
    index = ExactIndex(vectors, torch.arange(2, 7))
    assert not index.vectors.requires_grad
    assert not index.search(vectors, 2).scores.requires_grad


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk and score_bytes must be positive"):
        ExactIndex(torch.eye(2), torch.arange(2, 4), chunk=0)
