"""choose_slate against its definition, one list and one candidate at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from corral.data.candidates import Candidates
from corral.serving.slate import choose_slate


def by_hand(
    scores: list[float],
    k: int,
    diversity: float,
    vectors: np.ndarray,
    groups: list[int],
    most: int,
    new: list[bool],
    min_new: int,
) -> list[int]:
    """Columns of one list, by plain loops."""
    low, high = min(scores), max(scores)
    relevance = [(score - low) / (high - low) if high > low else 0.0 for score in scores]

    def grow(length: int, open_: list[int], kept: set[int]) -> list[int]:
        chosen: list[int] = []
        while len(chosen) < length:
            inside = set(chosen) | kept
            waiting = len(kept - set(chosen))
            best, best_value = None, -np.inf
            for item in open_:
                if item in chosen:
                    continue
                if item not in kept:
                    same = sum(groups[one] == groups[item] != 0 for one in inside)
                    if same >= most or length - len(chosen) <= waiting:
                        continue
                near = max((float(vectors[item] @ vectors[one]) for one in chosen), default=0.0)
                value = (1 - diversity) * relevance[item] - diversity * near
                if value > best_value + 1e-9:
                    best, best_value = item, value
            if best is None:
                break
            chosen.append(best)
        return chosen

    places = list(range(len(scores)))
    reserved = set(grow(min(min_new, k), [one for one in places if new[one]], set()))
    return grow(k, places, reserved)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_as_by_plain_loops(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 10**6), label="seed"))
    lists, width = 4, data.draw(st.integers(1, 9), label="width")
    k, diversity = data.draw(st.integers(1, 11)), data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    most, min_new = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 4))
    lengths = random.integers(1, width + 1, lists)
    items = torch.zeros(lists, width + 1, dtype=torch.int64)
    scores = torch.full((lists, width + 1), -torch.inf)
    for row, length in enumerate(lengths):
        items[row, :length] = torch.from_numpy(random.permutation(np.arange(2, 2 + width))[:length])
        scores[row, :length] = torch.from_numpy(np.sort(random.normal(size=length))[::-1].copy())
    vectors = functional.normalize(torch.from_numpy(random.normal(size=(lists, width + 1, 3))), dim=2).float()
    groups = torch.from_numpy(random.integers(0, 4, (lists, width + 1)))
    new = torch.from_numpy(random.random((lists, width + 1)) < 0.3)
    columns = choose_slate(
        Candidates(items, scores),
        k,
        diversity=diversity,
        vectors=vectors,
        groups=groups,
        most_of_group=most,
        new=new,
        min_new=min_new,
    )
    assert columns.shape == (lists, k)
    for row, length in enumerate(lengths):
        expected = by_hand(
            scores[row, :length].tolist(),
            k,
            diversity,
            vectors[row].double().numpy(),
            groups[row].tolist(),
            most,
            new[row].tolist(),
            min_new,
        )
        assert columns[row].tolist() == expected + [width] * (k - len(expected))


def test_mmr_of_three() -> None:
    """Two items alike and one that is neither: worked out on paper."""
    items = torch.tensor([[7, 8, 9, 0]])
    scores = torch.tensor([[1.0, 0.9, 0.0, -torch.inf]])
    vectors = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])

    def order(diversity: float) -> list[int]:
        return choose_slate(Candidates(items, scores), 3, diversity=diversity, vectors=vectors)[0].tolist()

    assert order(0.0) == [0, 1, 2]
    assert order(0.4) == [0, 1, 2]  # .6 x .9 - .4 = .14 > 0
    assert order(0.5) == [0, 2, 1]  # .5 x .9 - .5 < 0
    assert order(1.0) == [0, 2, 1]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_scores_does_not_matter(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = functional.pad(
        torch.randn(5, 12, generator=generator).sort(descending=True).values, (0, 1), value=-torch.inf
    )
    items = functional.pad(torch.arange(2, 14).expand(5, -1), (0, 1))
    vectors = functional.normalize(torch.randn(5, 13, 4, generator=generator), dim=2)
    plain = choose_slate(Candidates(items, scores), 6, diversity=0.5, vectors=vectors)
    scaled = choose_slate(Candidates(items, scores * scale + 3 * scale), 6, diversity=0.5, vectors=vectors)
    assert torch.equal(plain, scaled)
