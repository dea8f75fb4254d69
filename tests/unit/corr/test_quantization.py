from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from corral.corr.quantization import ProductQuantization, quantize


def vectors(items: int = 200, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(items, size, generator=torch.Generator().manual_seed(seed))


def error(quantization: ProductQuantization, original: Tensor) -> float:
    codes = quantization.codes
    decoded = torch.cat([quantization.codewords_0[codes[:, 0]], quantization.codewords_1[codes[:, 1]]], 1)
    return float((decoded - original).square().sum(1).mean())


def equal(first: ProductQuantization, second: ProductQuantization) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("codewords_0", "codewords_1", "codes")
    )


@pytest.mark.parametrize("size", [2, 3, 7, 8])
@pytest.mark.parametrize("num_codewords", [1, 5, 16])
def test_shapes_and_nearest_codewords(size: int, num_codewords: int) -> None:
    original = vectors(100, size)
    made = quantize(original, num_codewords)
    first = size // 2
    assert made.codewords_0.shape == (num_codewords, first)
    assert made.codewords_1.shape == (num_codewords, size - first)
    assert made.codes.shape == (100, 2)
    assert made.codes.dtype == torch.int64
    for half, codewords, codes in (
        (original[:, :first], made.codewords_0, made.codes[:, 0]),
        (original[:, first:], made.codewords_1, made.codes[:, 1]),
    ):
        distance = torch.cdist(half.double(), codewords.double())
        torch.testing.assert_close(distance.gather(1, codes[:, None])[:, 0], distance.amin(1), rtol=1e-4, atol=1e-5)


def test_a_codeword_is_the_mean_of_its_items() -> None:
    original = vectors()
    made = quantize(original, 6, max_steps=300)
    for codeword in range(6):
        mean = original[made.codes[:, 0] == codeword, :4].mean(0)
        torch.testing.assert_close(mean, made.codewords_0[codeword], rtol=0, atol=0.05)


def test_warm_start_goes_on_from_the_previous_codewords() -> None:
    original = vectors(2_000)
    first = quantize(original, 16, max_steps=1)
    warm = quantize(original, 16, previous=(first.codewords_0, first.codewords_1), max_steps=1)
    cold = quantize(original, 16, max_steps=1)
    assert equal(cold, first)
    assert error(warm, original) < error(first, original)
    # with the codewords at rest the next start changes nothing of substance: codeword k stays codeword k
    rested = quantize(original, 16, previous=(warm.codewords_0, warm.codewords_1), max_steps=300)
    again = quantize(original, 16, previous=(rested.codewords_0, rested.codewords_1))
    torch.testing.assert_close(again.codewords_0, rested.codewords_0, rtol=0, atol=0.1)
    assert (again.codes == rested.codes).double().mean() > 0.95


def test_dead_codewords_start_anew() -> None:
    """Sixteen well separated clusters, and previous codewords for twelve of them; four are far from everything."""
    centres = 10 * vectors(16, 8, seed=1)
    original = centres.repeat(20, 1) + 0.01 * vectors(320, 8)
    codewords = centres.clone()
    codewords[12:] = 1e3
    made = quantize(original, 16, previous=(codewords[:, :4], codewords[:, 4:]))
    assert len(made.codes[:, 0].unique()) == len(made.codes[:, 1].unique()) == 16
    unaided = (original - codewords[torch.cdist(original, codewords).argmin(1)]).square().sum(1).mean()
    assert error(made, original) < 0.3 * unaided
    assert torch.equal(codewords[12:], torch.full((4, 8), 1e3))


def test_all_codewords_dead() -> None:
    original = vectors(2_000)
    far = torch.full((16, 4), 1e3)
    assert error(quantize(original, 16, previous=(far, far)), original) < 1.1 * error(quantize(original, 16), original)


@pytest.mark.parametrize("previous", [None, (torch.zeros(32, 4), torch.zeros(32, 4))])
def test_more_codewords_than_items(previous: tuple[Tensor, Tensor] | None) -> None:
    original = vectors(5)
    made = quantize(original, 32, previous=previous)
    assert made.codewords_0.shape == (32, 4)
    assert error(made, original) == pytest.approx(0, abs=1e-10)
    assert made.codes.max() < 5


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("num_codewords", [1, 4, 64])
def test_identical_vectors(num_codewords: int, warm: bool) -> None:
    original = torch.full((50, 8), 0.3)
    previous = (torch.ones(num_codewords, 4), torch.ones(num_codewords, 4)) if warm else None
    made = quantize(original, num_codewords, previous=previous)
    assert error(made, original) == pytest.approx(0, abs=1e-10)


def test_no_warning_for_fewer_distinct_vectors_than_codewords(recwarn: pytest.WarningsRecorder) -> None:
    quantize(vectors(3).repeat(20, 1), 8)
    assert not recwarn.list


@pytest.mark.parametrize("warm", [False, True])
def test_the_same_arguments_give_the_same_result_with_any_number_of_threads(warm: bool) -> None:
    original = vectors(4_000)
    # Warm: some of these are dead, so that the seed has something to draw.
    previous = (3 * vectors(16, 4, seed=1), 3 * vectors(16, 4, seed=2)) if warm else None
    made = [quantize(original, 16, previous=previous, seed=3)]
    for threads in (1, 2, 3):
        with threadpool_limits(limits=threads):
            made.append(quantize(original, 16, previous=previous, seed=3))
    assert all(equal(made[0], other) for other in made[1:])
    assert not equal(made[0], quantize(original, 16, previous=previous, seed=4))


def test_leaves_its_arguments_and_torch_alone() -> None:
    original = vectors()
    kept, threads, state = original.clone(), torch.get_num_threads(), torch.get_rng_state()
    first = quantize(original, 4)
    before = first.codewords_0.clone()
    quantize(original + 1, 4, previous=(first.codewords_0, first.codewords_1))
    assert torch.equal(original, kept)
    assert torch.equal(first.codewords_0, before)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_and_gradients_are_accepted() -> None:
    made = quantize(vectors().bfloat16().requires_grad_(), 4)
    assert made.codewords_0.dtype == torch.float32
    assert not made.codewords_0.requires_grad


@pytest.mark.parametrize(("shape", "num_codewords"), [((5, 1), 2), ((5,), 2), ((5, 4), 0)])
def test_what_cannot_be_quantised_is_refused(shape: tuple[int, ...], num_codewords: int) -> None:
    with pytest.raises(ValueError, match="need"):
        quantize(torch.zeros(shape), num_codewords)
