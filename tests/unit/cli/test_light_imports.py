"""What a server need not have in memory is not imported with what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_models_come_without_the_libraries_that_only_fitting_needs() -> None:
    heavy = "[name for name in ('sklearn', 'scipy.stats', 'optuna', 'altair', 'polars.testing') if name in sys.modules]"
    program = f"import sys, corral.cli.experiment, corral.cli.run; print({heavy})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_corral_itself_brings_nothing_along() -> None:
    heavy = "[name for name in ('torch', 'numpy', 'polars', 'typer', 'pydantic') if name in sys.modules]"
    program = f"import sys, corral; assert 'TwoStage' in dir(corral); print({heavy})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_data_are_prepared_and_asked_without_pandas(tmp_path: Path) -> None:
    """Where it is installed, pyarrow's own ways to numpy and back import it."""
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"{u},i{u},{u}\n" for u in range(9)))
    program = (
        "import sys, pathlib; from corral.cli.main import main; from corral.data.dataset import Dataset\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "try: main(['data', 'add', 'shop', '--from', str(folder / 'events.csv'), '--format', 'table',"
        " '--out', str(folder / 'shop')])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "data = Dataset.open(folder / 'shop')\n"
        "assert data.users.external(data.users.rows([3, 4])) == [3, 4]\n"
        "assert data.items.external(data.items.rows(['i3', 'i99'])) == ['i3', None]\n"
        "assert 'pandas._libs' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={**os.environ, "CORRAL_CACHE": str(tmp_path / "cache")}
    )


def test_training_comes_without_torchs_compiler(tmp_path: Path) -> None:
    """The first of torch's own optimisers would import it: 75 MB, and seconds at the start of every training."""
    (tmp_path / "recipe.yaml").write_text(
        "threads: 1\n"
        "data: {path: DATA}\n"
        "retriever: {kind: sasrec, size: 8, blocks: 1, max_length: 8}\n"
        "ranker: {kind: din, field_size: 4, hidden: [4], history_length: 6, evidence: {}}\n"
        "together: {kind: corr, epochs: 2, batch_size: 16, num_negatives: 3, num_codewords: 4}\n"
        "evaluation: {num_candidates: 10, correction: true}\n".replace("DATA", str(tmp_path / "data"))
    )
    program = (
        "import sys, pathlib; from corral.cli.main import main; from corral.data.dataset import Dataset\n"
        "from corral.data.synthetic import markov_world\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "Dataset.write(folder / 'data', markov_world(40, 30, length=12).interactions)\n"
        "try: main(['train', str(folder / 'recipe.yaml'), '--run', str(folder / 'run'), '-q'])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "assert (folder / 'run' / 'bundle').is_dir()\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
