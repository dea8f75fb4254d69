"""RowWiseAdam against torch's own AdamW, its clipping, its schedule, its state, and what a step costs."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from corral.ranking.ctr.bst import BST
from corral.ranking.ctr.masknet import MaskNet
from corral.training.optimizers import RowWiseAdam, clip_gradients, warmup_constant, warmup_cosine


class Model(nn.Module):
    """A table, and a dense part with a matrix, biases and a norm."""

    def __init__(self, rows: int = 12, sparse: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(rows, 4, sparse=sparse, padding_idx=0)
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(self.linear(self.table(rows))).tanh()


def train(model: Model, optimizer: Any, batches: list[Tensor]) -> None:
    for rows in batches:
        optimizer.zero_grad()
        (model(rows) * torch.arange(3)).pow(2).sum().backward()
        optimizer.step()


def batches_of(rows: int, count: int, size: int = 9, seed: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(rows, (size,), generator=random) for _ in range(count)]


def assert_same(left: nn.Module, right: nn.Module, **tolerance: float) -> None:
    for (name, one), other in zip(left.named_parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def adamw(model: Model, decay: float, rate: float = 0.01) -> torch.optim.AdamW:
    """Decay for the matrix of the linear map alone."""
    others = [p for name, p in model.named_parameters() if name != "linear.weight"]
    groups = [{"params": [model.linear.weight], "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate)


def test_dense_is_adamw_with_decay_for_matrices_only() -> None:
    ours, theirs = Model().double(), Model().double()
    batches = batches_of(12, 20)
    train(ours, RowWiseAdam(ours, learning_rate=0.01, weight_decay=0.1, max_norm=0), batches)
    train(theirs, adamw(theirs, 0.1), batches)
    assert_same(ours, theirs, rtol=1e-10, atol=1e-12)


def test_sparse_rows_in_every_batch_are_adam() -> None:
    """Where every row is in every batch, lazy updates are no different from dense ones."""
    ours, theirs = Model(5, sparse=True).double(), Model(5).double()
    batches = [torch.tensor([1, 2, 3, 4, 2, 2, 0])] * 15
    train(ours, RowWiseAdam(ours, learning_rate=0.01, max_norm=0), batches)
    train(theirs, adamw(theirs, 0.0), batches)
    # torch's SparseAdam adds epsilon before the bias correction, AdamW after it.
    assert_same(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rows_in_use_are_updated_as_by_sparse_adam() -> None:
    ours, theirs = Model(sparse=True).double(), Model(sparse=True).double()
    dense = [p for name, p in theirs.named_parameters() if name != "table.weight"]
    optimizers = [
        torch.optim.SparseAdam([theirs.table.weight], lr=0.01),
        torch.optim.AdamW(dense, lr=0.01, weight_decay=0),
    ]
    optimizer = RowWiseAdam(ours, learning_rate=0.01, max_norm=0)
    for rows in batches_of(12, 20):
        train(ours, optimizer, [rows])
        theirs.zero_grad()
        (theirs(rows) * torch.arange(3)).pow(2).sum().backward()
        for other in optimizers:
            other.step()
    assert_same(ours, theirs, rtol=1e-10, atol=1e-12)


def test_untouched_rows_keep_their_bits() -> None:
    model = Model(50, sparse=True)
    optimizer = RowWiseAdam(model, learning_rate=0.1, weight_decay=0.5)
    train(model, optimizer, [torch.arange(50)])  # all have moments now
    before = model.table.weight.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state().items()}
    rows = torch.tensor([3, 7, 7, 41])
    train(model, optimizer, [rows] * 4)
    changed = (model.table.weight.detach() != before).any(1).nonzero().flatten()
    assert changed.tolist() == [3, 7, 41]
    for name in ("exp_avg", "exp_avg_sq"):
        moved = (optimizer.state()[f"sparse.0.{name}"] != state[f"sparse.0.{name}"]).any(1).nonzero().flatten()
        assert moved.tolist() == [3, 7, 41]


def test_padding_row_stays_zero() -> None:
    for sparse in (False, True):
        model = Model(sparse=sparse)
        train(model, RowWiseAdam(model, weight_decay=0.1), [torch.tensor([0, 1, 0, 2])] * 3)
        assert (model.table.weight[0] == 0).all()


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e6])
def test_joint_clipping_is_that_of_dense_gradients(max_norm: float) -> None:
    """Repeated rows count once, with their summed gradient."""
    sparse, dense = Model(sparse=True).double(), Model().double()
    rows = torch.tensor([3, 3, 3, 5, 9, 5, 1])
    for model in (sparse, dense):
        (model(rows) * torch.arange(3)).pow(2).sum().backward()
    norm = clip_gradients(sparse.parameters(), max_norm)
    expected = nn.utils.clip_grad_norm_(dense.parameters(), max_norm)
    torch.testing.assert_close(norm, expected, rtol=1e-12, atol=0)
    for left, right in zip(sparse.parameters(), dense.parameters(), strict=True):
        assert left.grad is not None
        torch.testing.assert_close(left.grad.to_dense(), right.grad, rtol=1e-10, atol=1e-14)


def test_clipping_without_gradients() -> None:
    assert float(clip_gradients(Model().parameters(), 1.0)) == 0.0


@pytest.mark.parametrize("sparse", [False, True])
def test_step_clips_and_reports_the_norm(sparse: bool) -> None:
    model, rows = Model(sparse=sparse), torch.tensor([1, 2, 2])
    optimizer = RowWiseAdam(model, max_norm=0.01)
    model(rows).sum().mul(100).backward()
    norm = optimizer.step()
    assert float(norm) > 0.01
    assert float(clip_gradients(model.parameters(), 1e9)) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
def test_state_round_trip(sparse: bool) -> None:
    """Training goes on bit by bit as if it had not stopped."""
    model = Model(sparse=sparse)
    schedule = warmup_cosine(5, 40)
    optimizer = RowWiseAdam(model, learning_rate=0.05, weight_decay=0.1, max_norm=0.5, schedule=schedule)
    train(model, optimizer, batches_of(12, 7))
    saved = {name: value.clone() for name, value in optimizer.state().items()}
    other = copy.deepcopy(model)
    train(model, optimizer, batches_of(12, 9, seed=2))
    resumed = RowWiseAdam(other, learning_rate=0.05, weight_decay=0.1, max_norm=0.5, schedule=schedule)
    resumed.load_state(saved)
    assert resumed.steps == 7
    train(other, resumed, batches_of(12, 9, seed=2))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert optimizer.state().keys() == resumed.state().keys()
    assert all(torch.equal(value, resumed.state()[name]) for name, value in optimizer.state().items())


def test_state_before_the_first_step() -> None:
    optimizer = RowWiseAdam(Model(sparse=True))
    assert set(optimizer.state()) == {"steps"}
    optimizer.load_state(optimizer.state())
    assert optimizer.steps == 0


def test_frozen_parameters_stand_still() -> None:
    model = Model()
    model.linear.requires_grad_(False)
    before = model.linear.weight.clone()
    train(model, RowWiseAdam(model, weight_decay=0.1), batches_of(12, 3))
    assert torch.equal(model.linear.weight, before)


def test_schedules() -> None:
    cosine = warmup_cosine(4, 14, floor=0.1)
    assert [cosine(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine(4) == 1.0
    assert cosine(9) == pytest.approx(0.55)
    assert cosine(6) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.2)))
    assert cosine(14) == cosine(99) == pytest.approx(0.1)
    assert warmup_cosine(0, 10)(0) == 1.0
    assert warmup_cosine(5, 5)(5) == 1.0
    constant = warmup_constant(2)
    assert [constant(step) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert warmup_constant()(0) == 1.0


def test_the_schedule_scales_the_step() -> None:
    """Adam's first step is the learning rate, whatever the gradient."""
    factors = [0.5, 1.0, 0.0]
    model = nn.Linear(1, 1, bias=False).double()
    optimizer = RowWiseAdam(model, learning_rate=0.2, max_norm=0, schedule=lambda step: factors[step])
    moved = []
    for _ in factors:
        before = float(model.weight.detach())
        optimizer.zero_grad()
        model(torch.ones(1, 1, dtype=torch.float64)).sum().backward()
        optimizer.step()
        moved.append(before - float(model.weight.detach()))
    assert moved == pytest.approx([0.1, 0.2, 0.0], rel=1e-6)


class Work(TorchDispatchMode):
    """Counts the elements that operations make anew (not those they change in place)."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(value) for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)}
        views = func.is_view if hasattr(func, "is_view") else False
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and id(value) not in given and not views:
                self.elements += value._values().numel() if value.is_sparse else value.numel()
        return result


def work_of_a_step(rows: int, sparse: bool) -> int:
    model = Model(rows, sparse=sparse)
    optimizer = RowWiseAdam(model, max_norm=0.1)
    batch = torch.tensor([1, 5, 5, 9])
    train(model, optimizer, [batch])  # the moments are made here, once
    with Work() as work:
        train(model, optimizer, [batch])
    return work.elements


def test_cost_of_a_step_does_not_depend_on_the_table() -> None:
    """All elements made by forward, backward, clipping and update, at 100 and at 100,000 rows."""
    assert work_of_a_step(100, True) == work_of_a_step(100_000, True)
    assert work_of_a_step(100_000, False) > 100_000  # the count does see a dense gradient


def test_a_sparse_table_of_two_modules_is_updated_once() -> None:
    def trained(tied: bool) -> tuple[Tensor, float]:
        torch.manual_seed(0)
        one = nn.Embedding(5, 2, sparse=True)
        other = nn.Embedding(5, 2, sparse=True) if tied else one
        other.weight = one.weight
        both = nn.ModuleList([one, other])
        optimizer = RowWiseAdam(both, learning_rate=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (one(torch.tensor([2, 3])).sum() + other(torch.tensor([3])).square().sum()).backward()
            norm = optimizer.step()
        return one.weight.detach(), float(norm)

    (tied, norm), (alone, other_norm) = trained(True), trained(False)
    torch.testing.assert_close(tied, alone, rtol=0, atol=0)
    assert norm == other_norm


def test_a_module_names_what_is_not_decayed() -> None:
    """Norms and tables that are plain matrices: without a gradient they stand still."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.matrix = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))

        def not_decayed(self) -> list[nn.Parameter]:
            return [self.gain]

    inner = Norm()
    optimizer = RowWiseAdam(nn.Sequential(inner), learning_rate=0.1, weight_decay=0.5)
    for parameter in inner.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert (inner.gain == 1).all()
    assert (inner.matrix < 1).all()


@pytest.mark.parametrize("kind", [MaskNet, BST])
def test_norms_and_positions_of_rankers_are_named(kind: type) -> None:
    model = kind(4, 3, 2)
    named = {id(p) for p in model.not_decayed()}
    others = [p for name, p in model.named_parameters() if id(p) not in named and p.ndim > 1]
    of_layers = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    assert named
    assert {id(p) for p in others} <= of_layers
