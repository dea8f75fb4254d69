"""RecTools: SASRec with early stopping on validation, and CandidateRankingModel (SASRec, TF-IDF kNN, CatBoost)."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from catboost import CatBoostRanker
from implicit.nearest_neighbours import TFIDFRecommender
from peer_run import LIST_LENGTH, PeerRun
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from rectools import Columns
from rectools.dataset import Dataset
from rectools.metrics import NDCG, Recall, calc_metrics
from rectools.model_selection import LastNSplitter
from rectools.models import ImplicitItemKNNWrapperModel, SASRecModel
from rectools.models.ranking import CandidateGenerator, CandidateRankingModel, CatBoostReranker

# The candidate model trains SASRec twice, each for a third of the epochs that SASRec alone may take: it cannot stop
# early without giving up events.
SHARE_OF_EPOCHS = 3


def interactions(run: PeerRun, *names: str) -> pd.DataFrame:
    """The events of these files; where they end is part of each file's name."""
    frames = [pd.DataFrame(run.columns(name)).assign(part=name) for name in names]
    frame = pd.concat(frames).rename(columns={"user": Columns.User, "item": Columns.Item})
    # RecTools orders by time alone, where the log has ties: each event gets a second of its own.
    frame[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(frame["order"], unit="s")
    frame[Columns.Weight] = 1.0
    return frame.reset_index(drop=True)


def dataset(frame: pd.DataFrame) -> Dataset:
    """As RecTools reads it."""
    columns = [Columns.User, Columns.Item, Columns.Weight, Columns.Datetime]
    return Dataset.construct(frame[columns])


class ValidationClock(Callback):
    """Validation is not training."""

    def __init__(self, run: PeerRun) -> None:
        self.run = run

    def on_validation_start(self, *_: object) -> None:
        """The clock of training stops."""
        self.run.start("validate")

    def on_validation_end(self, *_: object) -> None:
        """The clock of training goes on."""
        self.run.stop()


def sasrec(run: PeerRun, frame: pd.DataFrame, trainer: Trainer) -> SASRecModel:
    """SASRec of the shared sizes; events of the part "valid" are its validation."""
    shared = run.settings
    model = SASRecModel(
        n_blocks=shared["blocks"],
        n_heads=shared["heads"],
        n_factors=shared["size"],
        dropout_rate=shared["dropout"],
        session_max_len=shared["length"],
        batch_size=shared["batch"],
        lr=shared["learning_rate"],
        recommend_torch_device="cpu",
        recommend_n_threads=1,
        get_trainer_func=lambda: trainer,
        get_val_mask_func=lambda raw: (
            (frame["part"] == "valid").to_numpy()[raw.index]
            if (frame["part"] == "valid").any()
            else np.zeros(len(raw), bool)
        ),
    )
    return model


def trainer(run: PeerRun, epochs: int, callbacks: list[Callback]) -> Trainer:
    """A quiet trainer."""
    return Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        default_root_dir=str(run.out),
    )


def lists(users: np.ndarray, found: pd.DataFrame) -> np.ndarray:
    """Recommendations as one row a user, in the order of ``users``."""
    row = pd.Series(np.arange(len(users)), index=users)
    answers = np.zeros((len(users), LIST_LENGTH), np.int64)
    answers[row[found[Columns.User]].to_numpy(), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
    return answers


def main() -> None:
    """One system."""
    run = PeerRun.of_arguments()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    seed_everything(run.seed)
    everything, train = interactions(run, "train", "valid"), interactions(run, "train")
    positions = np.minimum(train.groupby(Columns.User).size() - 1, run.settings["length"]).sum()
    if run.system == "sasrec":
        checkpoint = ModelCheckpoint(run.out / "checkpoints", monitor="val_loss", filename="best")
        stop = EarlyStopping("val_loss", patience=run.settings["patience"])
        maker = trainer(run, run.settings["epochs"], [checkpoint, stop, ValidationClock(run)])
        model = sasrec(run, everything, maker)
        with run.phase("train"):
            model.fit(dataset(everything))
        epochs = model.fit_trainer.current_epoch
        found = next(one for one in model.fit_trainer.callbacks if isinstance(one, ModelCheckpoint))
        model.load_weights_from_checkpoint(found.best_model_path)
        Path(found.best_model_path).unlink()
        examples = epochs * positions
    else:
        epochs = max(run.settings["epochs"] // SHARE_OF_EPOCHS, 1)
        first = sasrec(run, train, trainer(run, epochs, []))
        neighbours = ImplicitItemKNNWrapperModel(TFIDFRecommender(K=50, num_threads=1))
        ranker = CatBoostRanker(loss_function="YetiRank", random_seed=run.seed, thread_count=1, verbose=False)
        generators = [
            CandidateGenerator(one, LIST_LENGTH, keep_ranks=True, keep_scores=True) for one in (first, neighbours)
        ]
        model = CandidateRankingModel(generators, LastNSplitter(n=1), CatBoostReranker(ranker))
        with run.phase("train"):
            model.fit(dataset(train))
        # Of SASRec's two trainings; what the trees and the neighbours cost is in the time, not in the count.
        examples = epochs * (2 * positions - train[Columns.User].nunique())
    users = run.columns("test")["user"]
    valid = everything[everything["part"] == "valid"]
    with run.phase("evaluate"):
        found = model.recommend(valid[Columns.User].unique(), dataset(train), LIST_LENGTH, filter_viewed=True)
        metrics = {f"{kind.__name__}@{k}": kind(k) for kind in (NDCG, Recall) for k in (10, LIST_LENGTH)}
        calc_metrics(metrics, found, valid)
    with run.phase("lists"):
        found = model.recommend(users, dataset(everything), LIST_LENGTH, filter_viewed=True)
    packages = ("rectools", "torch", "pytorch-lightning", "catboost", "numpy", "pandas")
    run.finish(lists(users, found), examples=int(examples), epochs=epochs, packages=packages)


if __name__ == "__main__":
    main()
