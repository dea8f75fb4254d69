"""The training loop: resumes bit by bit, keeps the best weights, refreshes on schedule, says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from corral.training.checkpoint import load_tensors
from corral.training.fit import FitState, fit
from corral.training.objective import Objective
from corral.training.optimizers import RowWiseAdam

SCRIPT = Path(__file__).with_name("killed_training.py")


def log_of(directory: Path) -> list[dict[str, float]]:
    """The log records, without the time they took."""
    records = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    assert all(record.pop("seconds") >= 0 for record in records)
    return records


def timeless(facts: dict[str, Any]) -> dict[str, Any]:
    for record in facts["state"]["records"]:
        del record["seconds"]
    return facts


@pytest.mark.parametrize("name", ["sasrec", "two-tower"])
def test_killed_training_ends_the_same(name: str, tmp_path: Path) -> None:
    """Killed mid-epoch, while it writes, between the best weights and the checkpoint, before the log."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), name, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 8, done.stdout
    for file in ("checkpoint.safetensors", "best.safetensors"):
        whole, killed = (load_tensors(tmp_path / run / file) for run in ("whole", "killed"))
        assert whole[0].keys() == killed[0].keys()
        assert [key for key, value in whole[0].items() if not torch.equal(value, killed[0][key])] == []
        if file == "checkpoint.safetensors":
            assert {key.split(".")[0] for key in whole[0]} >= {"weights", "optimizer", "random"}
            assert timeless(whole[1]) == timeless(killed[1])
        else:
            assert whole[1] == killed[1]
    final = [load_tensors(tmp_path / f"{run}.final") for run in ("whole", "killed")]
    assert final[0][1] == final[1][1]
    assert all(torch.equal(value, final[1][0][key]) for key, value in final[0][0].items())
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")
    names = {"checkpoint.safetensors", "checkpoint.previous.safetensors", "best.safetensors", "log.jsonl"}
    assert {file.name for file in (tmp_path / "killed").iterdir()} == names, "nothing half-written is left"


# Small worlds in this process


class Numbers:
    """A batch of numbers."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def to(self, device: Any) -> Numbers:
        return self


class Loader:
    def __init__(self, batches: int = 4) -> None:
        self.batches = batches

    def batches_per_epoch(self) -> int:
        return self.batches

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Numbers]:
        random = torch.Generator().manual_seed(epoch)
        values = torch.randn(self.batches, 8, 3, generator=random)
        yield from (Numbers(value) for value in values[first_batch:])


class Toy(nn.Module):
    """Its loss depends on dropout, on a generator of its own, and on what the last refresh saw."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.dropout = nn.Linear(3, 2), nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros(2, 3))
        self.generator = torch.Generator().manual_seed(1)
        self.refreshed_at: list[int] = []
        self.steps = 0

    def refresh(self) -> None:
        self.refreshed_at.append(self.steps)
        self.seen.copy_(self.linear.weight.detach())

    def generators(self) -> Mapping[str, torch.Generator]:
        return {"own": self.generator}

    def forward(self, batch: Numbers) -> dict[str, Tensor]:
        self.steps += 1
        wanted = torch.rand(8, 2, generator=self.generator)
        loss = (self.linear(self.dropout(batch.values)) - wanted - batch.values @ self.seen.T * 0.1).pow(2).mean()
        return {"total": loss + 1, "fit": loss}


class Interrupted(Exception):
    """Raised on purpose."""


def run(toy: Toy, directory: Path | None = None, stop_after: int | None = None, **keywords: Any) -> FitState:
    torch.manual_seed(3)
    on_step = keywords.pop("on_step", lambda state: None)

    def step(state: FitState) -> None:
        on_step(state)
        if state.step == stop_after:
            raise Interrupted

    given: dict[str, Any] = {"epochs": 3, "checkpoint_seconds": 1e-9, **keywords}
    optimizer = given.pop("optimizer", None) or RowWiseAdam(toy, learning_rate=0.05)
    return fit(toy, given.pop("loader", Loader()), optimizer, directory=directory, on_step=step, **given)


def weights(toy: nn.Module) -> list[list[float]]:
    return [value.flatten().tolist() for value in toy.state_dict().values()]


def test_toy_is_an_objective() -> None:
    objective: Objective = Toy()
    assert objective.generators()


@pytest.mark.parametrize("refresh_every", [0, 3])
@pytest.mark.parametrize("stop_after", [1, 5, 8, 11])
def test_resume_restores_everything(stop_after: int, refresh_every: int, tmp_path: Path) -> None:
    """Weights, what the last refresh built, the objective's generator, and torch's own."""
    whole, stopped, resumed = Toy(), Toy(), Toy()
    state = run(whole, tmp_path / "whole", refresh_every=refresh_every)
    after_whole = torch.rand(2)
    with pytest.raises(Interrupted):
        run(stopped, tmp_path / "stopped", stop_after, refresh_every=refresh_every)
    other = run(resumed, tmp_path / "stopped", refresh_every=refresh_every)
    assert torch.equal(torch.rand(2), after_whole)
    assert weights(whole) == weights(resumed)
    assert torch.equal(whole.generator.get_state(), resumed.generator.get_state())
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "stopped")
    assert (state.step, state.epoch, state.finished) == (other.step, other.epoch, other.finished) == (12, 3, True)


def test_a_finished_training_is_loaded(tmp_path: Path) -> None:
    first, again = Toy(), Toy()
    scores = iter([0.1, 0.3, 0.2])
    run(first, tmp_path, validate=lambda: {"ndcg@10": next(scores)})
    (tmp_path / "log.jsonl").unlink()  # the process died before it was written
    state = run(again, tmp_path, validate=lambda: {"ndcg@10": 1 / 0})
    assert again.steps == 0
    assert state.finished
    assert weights(first) == weights(again)
    assert len(log_of(tmp_path)) == 3


def test_more_epochs_go_on_where_fewer_had_ended(tmp_path: Path) -> None:
    """As if they had been asked for at once; a training that patience had ended stays as it is."""
    run(Toy(), tmp_path / "twice", epochs=1)
    twice, once = Toy(), Toy()
    assert run(twice, tmp_path / "twice", epochs=3).step == run(once, epochs=3).step
    assert weights(twice) == weights(once)

    def never_better() -> Mapping[str, float]:
        return {"ndcg@10": 0.5}

    ended = run(Toy(), tmp_path / "ended", epochs=9, patience=2, validate=never_better)
    assert run(Toy(), tmp_path / "ended", epochs=20, patience=2, validate=never_better).step == ended.step


def test_an_interrupted_epoch_logs_all_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by 1 s a batch and 1000 s between the two processes: 4 batches an epoch are 4 s."""
    clock = [0.0]
    monkeypatch.setattr("corral.training.fit.time.monotonic", lambda: clock[0])

    def tick(state: FitState) -> None:
        clock[0] += 1.0

    with pytest.raises(Interrupted):
        run(Toy(), tmp_path, stop_after=7, on_step=tick, checkpoint_seconds=0.5)
    clock[0] += 1000.0
    # The seventh step was thrown away with the checkpoint that it did not reach.
    state = run(Toy(), tmp_path, on_step=tick, checkpoint_seconds=0.5)
    assert [record["seconds"] for record in state.records] == [4.0, 4.0, 4.0]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("scores", "patience", "every", "epochs", "ran", "best"),
    [
        ([0.1, 0.2, 0.3, 0.4], 2, 1, 4, 4, 3),  # always better
        ([0.3, 0.2, 0.1, 0.9], 2, 1, 4, 3, 0),  # patience runs out
        ([0.3, 0.2, 0.1, 0.9], 0, 1, 4, 4, 3),  # endless patience
        ([0.3, 0.3, 0.3, 0.3], 2, 1, 9, 3, 0),  # equal is not better
        ([0.2, 0.1, 0.3, 0.1, 0.1, 0.9], 2, 1, 9, 5, 2),  # counted from the best
        ([0.1, 0.3, 0.2, 0.1, 0.9], 2, 2, 10, 8, 3),  # in validations, not in epochs
        ([0.1, 0.3], 5, 2, 3, 3, 2),  # the last epoch is validated, off the beat or not
        ([-5.0, -4.0, -6.0], 5, 1, 3, 3, 1),
    ],
)
def test_patience_and_best_weights(
    scores: list[float],
    patience: int,
    every: int,
    epochs: int,
    ran: int,
    best: int,
    keep: bool,
    tmp_path: Path,
) -> None:
    toy, by_epoch = Toy(), []
    script = iter(scores)

    def validate() -> Mapping[str, float]:
        assert not toy.training
        assert not torch.is_grad_enabled()
        return {"ndcg@10": next(script), "recall@10": 0.5}

    directory = tmp_path if keep else None
    state = run(
        toy,
        directory,
        validate=validate,
        patience=patience,
        validate_every=every,
        epochs=epochs,
        on_epoch=lambda state: by_epoch.append(weights(toy)),
    )
    assert len(by_epoch) == state.epoch == ran
    assert state.best_epoch == best
    assert weights(toy) == by_epoch[best]
    assert not toy.training
    assert state.finished
    assert state.best == state.records[best]["ndcg@10"]
    if keep:
        tensors, facts = load_tensors(tmp_path / "best.safetensors")
        assert facts["epoch"] == best
        assert {name: value.flatten().tolist() for name, value in tensors.items()} == dict(
            zip(toy.state_dict(), by_epoch[best], strict=True)
        )


@pytest.mark.parametrize(("tried", "kept"), [(0.6, True), (0.5, False), (0.4, False)])
def test_a_part_may_keep_its_last_epoch(tried: float, kept: bool, tmp_path: Path) -> None:
    """Where the metric is then higher; the rest is the best epoch's, also where a finished training is loaded."""
    for name, scores in (("trained", [0.1, 0.5, 0.3, tried]), ("loaded", [tried])):
        toy, by_epoch, script = Toy(), [], iter(scores)
        state = run(
            toy,
            tmp_path,
            validate=lambda script=script: {"ndcg@10": next(script)},
            later=toy.linear,
            on_epoch=lambda state, toy=toy, found=by_epoch: found.append(
                {k: v.clone() for k, v in toy.state_dict().items()}
            ),
        )
        if name == "trained":
            best, last = by_epoch[1], by_epoch[2]
        assert (state.best, state.best_epoch, state.later) == (0.5, 1, tried), name
        assert next(script, None) is None
        wanted = {**best, **{k: v for k, v in last.items() if kept and k.startswith("linear.")}}
        assert all(torch.equal(value, wanted[key]) for key, value in toy.state_dict().items()), name
        assert not torch.equal(best["seen"], last["seen"])
        assert not toy.training


def test_a_part_whose_last_epoch_was_the_best_is_not_tried() -> None:
    toy, script = Toy(), iter([0.1, 0.2, 0.3])
    assert run(toy, validate=lambda: {"ndcg@10": next(script)}, later=toy.linear).later is None


def test_another_metric() -> None:
    toy, scores = Toy(), iter([(0.1, 0.9), (0.2, 0.8), (0.3, 0.7)])

    def validate() -> Mapping[str, float]:
        first, second = next(scores)
        return {"ndcg@10": first, "recall@10": second}

    assert run(toy, validate=validate, metric="recall@10").best_epoch == 0


def test_missing_metric() -> None:
    with pytest.raises(ValueError, match=r"validation gives no 'ndcg@10'; it gives \['auc', 'logloss'\]"):
        run(Toy(), validate=lambda: {"logloss": 1.0, "auc": 0.5})


def test_a_metric_that_the_data_do_not_define(tmp_path: Path) -> None:
    """No epoch could be the best by it, and the last weights would stay in silence."""
    with pytest.raises(ValueError, match=r"ndcg@10 is not defined on this validation part \(nan\)"):
        run(Toy(), tmp_path, validate=lambda: {"ndcg@10": float("nan")})


def test_records() -> None:
    toy = Toy()
    state = run(toy, validate=lambda: {"ndcg@10": 0.5}, validate_every=2)
    assert [record["epoch"] for record in state.records] == [0, 1, 2]
    assert [record["step"] for record in state.records] == [4, 8, 12]
    assert ["ndcg@10" in record for record in state.records] == [False, True, True]
    for record in state.records:
        assert record["loss/total"] == pytest.approx(record["loss/fit"] + 1)
    assert state.records[2]["loss/fit"] < state.records[0]["loss/fit"]


def test_a_loss_that_begins_within_an_epoch_is_logged_as_it_is() -> None:
    class Late(Toy):
        def forward(self, batch: Numbers) -> dict[str, Tensor]:
            losses = super().forward(batch)
            return losses if self.steps <= 2 else {**losses, "late": torch.tensor(2.0)}

    assert [record["loss/late"] for record in run(Late()).records] == [2.0, 2.0, 2.0]


def test_sums_of_a_checkpoint_without_counts_are_of_all_its_batches() -> None:
    assert FitState(batch=3, sums={"total": 6.0}).counts == {"total": 3}
    assert FitState(batch=3, sums={"total": 6.0}, counts={"total": 2}).counts == {"total": 2}


@pytest.mark.parametrize(
    ("refresh_every", "expected"), [(0, [0, 4, 8]), (1, list(range(12))), (5, [0, 5, 10]), (100, [0])]
)
def test_refresh_schedule(refresh_every: int, expected: list[int]) -> None:
    toy = Toy()
    run(toy, refresh_every=refresh_every)
    assert toy.refreshed_at == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(value: float, tmp_path: Path) -> None:
    """It stops at once, and the checkpoint is that of before."""

    class Spoilt(Loader):
        def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Numbers]:
            for number, batch in enumerate(super().epoch(epoch, first_batch), start=first_batch):
                yield Numbers(batch.values * (value if (epoch, number) == (1, 2) else 1.0))

    with pytest.raises(ValueError, match=r"the loss is not finite at step 7 \(epoch 1\); lower the learning rate"):
        run(Toy(), tmp_path, loader=Spoilt())
    tensors, facts = load_tensors(tmp_path / "checkpoint.safetensors")
    assert facts["state"]["step"] == 6
    assert all(tensor.isfinite().all() for name, tensor in tensors.items() if name.startswith("weights."))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, resumed = Toy(), Toy()
    run(whole, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(Toy(), tmp_path / "damaged", stop_after=8)
    truncate(tmp_path / "damaged" / "checkpoint.safetensors")
    run(resumed, tmp_path / "damaged")
    assert "checkpoint.safetensors: damaged; set aside as damaged-checkpoint.safetensors" in capsys.readouterr().err
    assert weights(resumed) == weights(whole)
    assert log_of(tmp_path / "damaged") == log_of(tmp_path / "whole")
    there = {path.name for path in (tmp_path / "damaged").iterdir()}
    assert there == {path.name for path in (tmp_path / "whole").iterdir()} | {"damaged-checkpoint.safetensors"}


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    whole, resumed = Toy(), Toy()
    run(whole, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(Toy(), tmp_path / "killed", stop_after=8)
    folder = tmp_path / "killed"
    (folder / "checkpoint.safetensors").rename(folder / "checkpoint.previous.safetensors")
    (folder / "checkpoint.next.safetensors").write_bytes(b"not read")
    run(resumed, folder)
    assert weights(resumed) == weights(whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())


@pytest.mark.parametrize("damage", ["truncated", "newer"])
def test_no_other_checkpoint_is_taken(damage: str, tmp_path: Path) -> None:
    """All damaged, or one that this version cannot know."""
    run(Toy(), tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    if damage == "truncated":
        truncate(path)
        truncate(tmp_path / "checkpoint.previous.safetensors")
    else:
        path.write_bytes(path.read_bytes().replace(b'\\"format_version\\": 1', b'\\"format_version\\": 9'))
    message = "damaged or not a corral checkpoint" if damage == "truncated" else "format version 9"
    with pytest.raises(ValueError, match=message):
        run(Toy(), tmp_path)


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    class Wider(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(2, 2)

    class Other(Toy):
        def generators(self) -> Mapping[str, torch.Generator]:
            return {"another": self.generator}

    run(Toy(), tmp_path)
    for kind in (Wider, Other):
        with pytest.raises(ValueError, match="a checkpoint of another model"):
            run(kind(), tmp_path)


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(Toy(), validate=lambda: {"ndcg@10": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_no_epochs_and_no_batches() -> None:
    assert run(Toy(), epochs=0).records == []
    state = run(Toy(), loader=Loader(0), epochs=2)
    assert [record["step"] for record in state.records] == [0, 0]


def test_low_precision_keeps_weights_and_optimizer_in_full() -> None:
    toy = Toy()
    optimizer = RowWiseAdam(toy)
    seen = []
    toy.linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run(toy, low_precision=True, epochs=1, optimizer=optimizer)
    assert set(seen) == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in toy.state_dict().values())
    assert {v.dtype for k, v in optimizer.state().items() if "exp_avg" in k} == {torch.float32}


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    """Our own temporary names, and the one that safetensors writes to before it renames."""
    for name in (".tmpAb12Cd", "checkpoint.safetensors.tmp-1"):
        (tmp_path / name).write_bytes(b"half")
    objective = Toy()
    fit(objective, Loader(), RowWiseAdam(objective, learning_rate=0.01), epochs=1, directory=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.safetensors", "log.jsonl"]
