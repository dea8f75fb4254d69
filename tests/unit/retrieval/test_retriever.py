"""Scores of pairs: inner products, in full precision."""

from __future__ import annotations

import torch

from corral.retrieval.retriever import pair_scores


def test_scores_are_inner_products_whatever_autocast_says() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, vectors = torch.randn(5, 8, generator=generator), torch.randn(5, 3, 8, generator=generator)
    exact = (queries.double()[:, None] * vectors.double()).sum(-1)
    torch.testing.assert_close(pair_scores(queries.double(), vectors.double()), exact)
    with torch.autocast("cpu", torch.bfloat16):
        scores = pair_scores(queries, vectors)
        half = pair_scores(queries.bfloat16(), vectors)
    assert scores.dtype == half.dtype == torch.float32
    torch.testing.assert_close(scores, exact.float())
    torch.testing.assert_close(half, (queries.bfloat16().float()[:, None] * vectors).sum(-1))


def test_the_gradient_goes_to_both() -> None:
    queries, vectors = torch.ones(2, 3, requires_grad=True), torch.ones(2, 4, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        pair_scores(queries, vectors).sum().backward()
    assert queries.grad is not None
    assert vectors.grad is not None
    assert queries.grad.eq(4).all()
    assert vectors.grad.eq(1).all()
