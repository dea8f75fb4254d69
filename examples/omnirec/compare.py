"""corral and other libraries on one split, run and judged by OmniRec (Python 3.12+).

python examples/omnirec/compare.py SPLIT RECIPE [OTHER ...]

SPLIT: what `corral data export --format atomic` wrote. RECIPE: of corral. OTHER: algorithms of OmniRec, such as
LensKit.ItemKNNScorer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from omnirec import NDCG, DatasetMeta, Recall, RecSysDataSet
from omnirec.data_variants import SplitData
from omnirec.runner.evaluation import Evaluator
from omnirec.runner.plan import ExperimentPlan
from omnirec.runner.registry import register_runner
from omnirec.util.run import run_omnirec
from omnirec_runner.runner import RunnerInfo

HERE = Path(__file__).resolve().parent
# What is installed into the runner's environment; from a checkout its folder, once there is a release "corral".
CORRAL = str(HERE.parents[1])


def split_of(folder: Path) -> RecSysDataSet[SplitData]:
    """An exported split as OmniRec holds one: implicit feedback, without a rating."""
    names = {"user_id:token": "user", "item_id:token": "item", "timestamp:float": "timestamp"}
    files = [next(folder.glob(f"*.{part}.inter")) for part in ("train", "valid", "test")]
    parts = [pd.read_csv(file, sep="\t", quoting=3)[list(names)].rename(columns=names) for file in files]
    return RecSysDataSet(SplitData(*parts), DatasetMeta(name=files[0].name.split(".")[0]))


def main(split: str, recipe: str, *others: str) -> None:
    register_runner("corral", RunnerInfo(HERE / "corral_runner.py", [recipe], "3.11", [CORRAL]))
    plan = ExperimentPlan("corral and others")
    plan.add_algorithm(f"corral.{recipe}")
    for other in others:
        plan.add_algorithm(other)
    run_omnirec(split_of(Path(split)), plan, Evaluator(NDCG([10]), Recall([10])))


if __name__ == "__main__":
    main(*sys.argv[1:])
