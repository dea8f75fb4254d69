"""What a server need not have in memory is not imported with what it needs."""

from __future__ import annotations

import subprocess
import sys


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
