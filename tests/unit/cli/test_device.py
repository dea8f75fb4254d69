"""Where models run and how precisely: one setting each, and what auto means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from corral.cli import processor_flags
from corral.cli.build import choose_device, multiplies_in_bfloat16
from corral.cli.experiment import Experiment
from corral.cli.fit_objective import fit_objective
from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world
from corral.settings import load_settings

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_is_the_first_gpu_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == GPU
    assert choose_device("cpu") == CPU
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="device='gpu'"):
        choose_device("gpu")


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 avx512_bf16 sse2\n", True),
        ("flags\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 sve\n", True),
        ("flags\t: fpu avx2 avx512f\n", False),
        ("model name: something with bf16 in it\n", False),
        (None, False),
    ],
)
def test_a_processor_has_bfloat16_if_it_says_so(
    text: str | None, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    monkeypatch.setattr(processor_flags, "CPUINFO", cpuinfo)
    assert multiplies_in_bfloat16(CPU) == has


def test_a_gpu_has_bfloat16_if_it_need_not_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return True

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert multiplies_in_bfloat16(GPU)
    assert asked == [False]
    assert not multiplies_in_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize(
    ("switch", "own", "wanted"),
    [
        ("null", "true", {"retriever": True, "ranker": False}),
        ("null", "auto", {"retriever": None, "ranker": False}),
        ("true", "false", {"retriever": True, "ranker": True}),
        ("false", "auto", {"retriever": False, "ranker": False}),
        ("auto", "false", {"retriever": None, "ranker": None}),
    ],
)
def test_one_switch_for_all_trainings(
    switch: str, own: str, wanted: dict[str, bool | None], has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: as the processor has it."""
    data = Dataset.write(tmp_path / "data", markov_world(10, 8, length=8).interactions).path
    text = f"data: {{path: {data}}}\nretriever_training: {{low_precision: {own}}}\nlow_precision: {switch}"
    experiment = Experiment.start(load_settings(text, "switch"), tmp_path / "run", quiet=True)
    monkeypatch.setattr("corral.cli.build.multiplies_in_bfloat16", lambda device: has)
    found: dict[str, bool] = {}
    settings = experiment.settings
    for name, chosen in (("retriever", settings.retriever_training), ("ranker", settings.ranker_training)):

        def noted(*rest: object, low_precision: bool, name: str = name, **keywords: object) -> None:
            found[name] = low_precision

        monkeypatch.setattr("corral.cli.fit_objective.fit", noted)

        class Loader:
            def batches_per_epoch(self) -> int:
                return 1

        fit_objective(experiment, name, torch.nn.Linear(2, 2), Loader(), chosen, dict)  # type: ignore[arg-type]
    assert found == {name: has if asked is None else asked for name, asked in wanted.items()}


def test_what_is_no_switch_is_refused() -> None:
    with pytest.raises(ValueError, match="low_precision"):
        load_settings("data: {name: online-retail}\nlow_precision: half", "recipe")
