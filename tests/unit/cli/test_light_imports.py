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
