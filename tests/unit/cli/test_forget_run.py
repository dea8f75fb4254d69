"""What lies in a run's directory and is not of the run survives when the run is made again."""

from __future__ import annotations

from pathlib import Path

from corral.cli.forget_run import not_of_a_run
from corral.data.atomic_directory import carry_over


def test_what_is_not_of_the_run_is_carried_over(tmp_path: Path) -> None:
    run, made = tmp_path / "run", tmp_path / "made"
    for name in (
        "data/item.npy",
        "ranker/checkpoint.safetensors",
        "bundle/events.sqlite",
        "bundle/retriever.safetensors",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("old")
    (run / "bundle.events.sqlite-wal").write_text("old")
    (made / "bundle").mkdir(parents=True)
    (made / "bundle" / "retriever.safetensors").write_text("new")
    carry_over(run, made, not_of_a_run(run))
    found = {str(path.relative_to(made)): path.read_text() for path in made.rglob("*") if path.is_file()}
    assert found == {
        "bundle/retriever.safetensors": "new",
        "bundle/events.sqlite": "old",
        "bundle.events.sqlite-wal": "old",
        "data/item.npy": "old",
    }
    # The same file, not a copy: who has it open goes on with it.
    assert (made / "data" / "item.npy").stat().st_ino == (run / "data" / "item.npy").stat().st_ino
