"""FuxiCTR: DIN, DCN-V2 and ETA of its model zoo for long histories, on its own loader of the same."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DCNv2.DCNv2 import DCNv2
from model_zoo.LongCTR.DIN.DIN import DIN
from model_zoo.LongCTR.ETA.ETA import ETA
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader
from peer_run import PeerRun


def files(run: PeerRun) -> dict[str, str]:
    """The split as its loader wants it: examples, the histories of users, and the fields of items."""
    histories = run.columns("histories")
    paths = {name: str(run.out / f"{name}.parquet") for name in ("train", "valid", "test", "users", "items")}
    for part in ("train", "valid", "test"):
        columns = run.columns(part)
        frame = {"user_id": columns["user_id"], "user_index": columns["user"], "item_index": columns["item"]}
        frame["seq_len"] = columns["seen"]
        frame["label"] = columns.get("label", np.zeros(len(columns["user"])))
        pd.DataFrame(frame).astype(np.int64).to_parquet(paths[part])
    items = np.split(histories["items"], histories["offsets"][1:-1])
    pd.DataFrame({"full_item_seq": items}).to_parquet(paths["users"])
    rows = np.arange(run.facts["items"])
    pd.DataFrame({"item_index": rows, "item_id": rows}).to_parquet(paths["items"])
    return paths


def feature_map(run: PeerRun) -> FeatureMap:
    """Two ids."""
    found = FeatureMap("peers", str(run.out))
    sizes = {"user_id": ("user", run.facts["users"]), "item_id": ("item", run.facts["items"])}
    found.features = OrderedDict(
        (name, {"source": source, "type": "categorical", "vocab_size": size, "padding_idx": 0})
        for name, (source, size) in sizes.items()
    )
    # What its loader looks rows up by; no inputs of the model.
    found.features.update({name: {"type": "meta", "source": ""} for name in ("user_index", "item_index", "seq_len")})
    found.labels, found.num_fields, found.default_emb_dim = ["label"], 2, run.settings["size"]
    found.total_features = run.facts["users"] + run.facts["items"]
    return found


def model(run: PeerRun, features: FeatureMap) -> Any:
    """At the shared sizes; the rest as it ships, but for the learning rate, which stays."""
    shared = run.settings
    common = {
        "embedding_dim": shared["size"],
        "learning_rate": shared["learning_rate"],
        "net_dropout": shared["dropout"],
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "metrics": ["AUC", "logloss"],
        "monitor": "AUC",
        "early_stop_patience": shared["patience"],
        "reduce_lr_on_plateau": False,
        "verbose": 0,
        "model_root": str(run.out),
        "gpu": -1,
    }
    os.makedirs(run.out / features.dataset_id, exist_ok=True)
    if run.system == "din":
        return DIN(
            features, dnn_hidden_units=shared["hidden"], attention_hidden_units=shared["attention_hidden"], **common
        )
    if run.system == "dcnv2":
        return DCNv2(features, parallel_dnn_hidden_units=shared["hidden"], **common)
    # The candidate stands at the end of the short sequence that it cuts.
    return ETA(
        features,
        dnn_hidden_units=shared["hidden"],
        hash_bits=shared["bits"],
        topk=shared["nearest"],
        short_seq_len=shared["recent"] + 1,
        attention_dim=shared["size"],
        **common,
    )


def main() -> None:
    """One system."""
    run = PeerRun.of_arguments()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    seed_everything(run.seed)
    paths, features, shared = files(run), feature_map(run), run.settings
    length = shared["long_length"] if run.system == "eta" else shared["length"]

    def loader(part: str) -> LongCTRDataLoader:
        return LongCTRDataLoader(
            features,
            paths[part],
            paths["users"],
            paths["items"],
            batch_size=shared["batch"],
            shuffle=part == "train",
            num_workers=0,
            max_len=length,
        )

    train, valid = loader("train"), loader("valid")
    built = model(run, features)
    built.eval_step = run.timed("validate", built.eval_step)
    with run.phase("train"):
        built.fit(train, epochs=shared["epochs"], validation_data=valid)
    with run.phase("evaluate"):
        built.evaluate(valid)
    with run.phase("lists"):
        probabilities = built.predict(loader("test"))
    epochs = built._epoch_index + 1
    packages = ("fuxictr", "torch", "numpy", "pandas")
    run.finish(probabilities, examples=epochs * train.num_samples, epochs=epochs, packages=packages)


if __name__ == "__main__":
    main()
