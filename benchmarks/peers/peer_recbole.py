"""RecBole: SASRec for lists and DIN for clicks, through its atomic files, trainer and evaluator.

Its split "valid_only" holds each user's last event of train and validation out, so that a user without a validation
event loses one of train; its DIN does not read who the user is.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
import torch
from peer_run import PeerRun
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_logger, init_seed

NAME = "peers"


def write(run: PeerRun, file: str, header: tuple[str, ...], rows: Any) -> None:
    """An atomic file."""
    folder = run.out / NAME
    folder.mkdir(exist_ok=True)
    with (folder / file).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(header)
        writer.writerows(rows)


def write_events(run: PeerRun) -> dict[str, Any]:
    """Train and validation in one file, and the settings of SASRec."""
    parts = [run.columns(name) for name in ("train", "valid")]
    user, item, order = (np.concatenate([part[name] for part in parts]) for name in ("user", "item", "order"))
    write(
        run,
        f"{NAME}.inter",
        ("user_id:token", "item_id:token", "timestamp:float"),
        zip(user, item, order, strict=True),
    )
    shared = run.settings
    return {
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_only"}, "order": "TO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": None,
        "metrics": ["NDCG", "Recall"],
        "topk": [10, 100],
        "valid_metric": "NDCG@10",
        "loss_type": "CE",
        "hidden_size": shared["size"],
        "inner_size": 4 * shared["size"],
        "n_layers": shared["blocks"],
        "n_heads": shared["heads"],
        "hidden_dropout_prob": shared["dropout"],
        "attn_dropout_prob": shared["dropout"],
        "train_batch_size": shared["prefixes"],
    }


def write_clicks(run: PeerRun) -> dict[str, Any]:
    """A file a part, histories written out, and the settings of DIN."""
    shared = run.settings
    for part in ("train", "valid", "test"):
        columns = run.columns(part)
        histories = [
            " ".join(str(item) for item in row if item) for row in run.histories(columns, shared["length"]).tolist()
        ]
        label = columns.get("label", np.zeros(len(histories)))
        write(
            run,
            f"{NAME}.{part}.inter",
            ("user_id:token", "item_id_list:token_seq", "item_id:token", "label:float"),
            zip(columns["user_id"], histories, columns["item"], label, strict=True),
        )
    return {
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id", "label"]},
        "alias_of_item_id": ["item_id_list"],
        "eval_args": {"order": "TO", "group_by": None, "mode": "labeled"},
        "train_neg_sample_args": None,
        "metrics": ["AUC", "LogLoss"],
        "valid_metric": "AUC",
        "embedding_size": shared["size"],
        "mlp_hidden_size": shared["hidden"],
        "dropout_prob": shared["dropout"],
        "train_batch_size": shared["batch"],
    }


def lists(run: PeerRun, model: Any, dataset: Any) -> np.ndarray:
    """Lists of the test users, from scores of its full-catalogue prediction."""
    length, seen = run.settings["length"], run.sequences("train", "valid")
    known = np.unique(np.concatenate([run.columns(name)["item"] for name in ("train", "valid")]))
    row_of = np.zeros(run.facts["items"], np.int64)
    row_of[known] = dataset.token2id("item_id", known.astype(str))

    def score(users: np.ndarray) -> np.ndarray:
        items = torch.zeros(len(users), length, dtype=torch.int64)
        size = torch.zeros(len(users), dtype=torch.int64)
        for row, user in enumerate(users.tolist()):
            latest = torch.from_numpy(row_of[seen[user][-length:]])
            items[row, : len(latest)], size[row] = latest, len(latest)
        with torch.no_grad():
            scores = model.full_sort_predict(Interaction({"item_id_list": items, "item_length": size})).numpy()
        found = np.full((len(users), run.facts["items"]), -np.inf, np.float32)
        found[:, known] = scores[:, row_of[known]]
        return found

    return run.lists(score)


def probabilities(model: Any, dataset: Any) -> np.ndarray:
    """Click probabilities of the test file, in its order."""
    rows, found = dataset.inter_feat, []
    with torch.no_grad():
        for start in range(0, len(rows), 4096):
            found.append(model.predict(rows[start : start + 4096]).numpy())
    return np.concatenate(found)


def main() -> None:
    """One system."""
    run = PeerRun.of_arguments()
    torch.set_num_threads(1)
    clicks = run.system == "din"
    own = write_clicks(run) if clicks else write_events(run)
    shared = run.settings
    config = Config(
        model="DIN" if clicks else "SASRec",
        dataset=NAME,
        config_dict={
            **own,
            "data_path": str(run.out),
            "checkpoint_dir": str(run.out),
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "item_id",
            "MAX_ITEM_LIST_LENGTH": shared["length"],
            "learning_rate": shared["learning_rate"],
            "epochs": shared["epochs"],
            "stopping_step": shared["patience"],
            "seed": run.seed,
            "use_gpu": False,
            "show_progress": False,
        },
    )
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer._valid_epoch = run.timed("validate", trainer._valid_epoch)
    with run.phase("train"):
        trainer.fit(train, valid)
    epochs = len(trainer.train_loss_dict)
    # Its own loading of the best weights asks torch for more than torch gives since 2.6; the file is of this run.
    model.load_state_dict(torch.load(trainer.saved_model_file, weights_only=False)["state_dict"])
    model.eval()
    with run.phase("evaluate"):
        trainer.evaluate(valid, load_best_model=False)
    with run.phase("lists"):
        answers = probabilities(model, test._dataset) if clicks else lists(run, model, dataset)
    packages = ("recbole", "torch", "numpy", "pandas")
    run.finish(answers, examples=epochs * len(train._dataset), epochs=epochs, packages=packages)


if __name__ == "__main__":
    main()
