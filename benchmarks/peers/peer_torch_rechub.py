"""torch-rechub: DIN for clicks, and its two-tower YouTubeDNN for lists."""

from __future__ import annotations

import copy

import numpy as np
import torch
from peer_run import PeerRun
from torch.utils.data import DataLoader
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import YoutubeDNN
from torch_rechub.models.ranking import DIN
from torch_rechub.trainers import CTRTrainer, MatchTrainer
from torch_rechub.utils.data import DataGenerator, MatchDataGenerator

# As in its own example of the model.
TEMPERATURE = 0.02


def din(run: PeerRun) -> None:
    """Click probabilities. Its DIN has no mask: padding is a vector of zeros."""
    shared, size = run.settings, run.settings["size"]
    user = SparseFeature("user_id", run.facts["users"], size)
    item = SparseFeature("item_id", run.facts["items"], size, padding_idx=0)
    history = SequenceFeature(
        "history", run.facts["items"], size, pooling="concat", shared_with="item_id", padding_idx=0
    )

    def part(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        columns = run.columns(name)
        inputs = {"user_id": columns["user_id"], "item_id": columns["item"]}
        inputs["history"] = run.histories(columns, shared["length"])
        return inputs, columns.get("label", np.zeros(len(columns["user"]), np.float32))

    (train, label), (valid, valid_label), (test, test_label) = part("train"), part("valid"), part("test")
    loaders = DataGenerator(train, label).generate_dataloader(
        valid, valid_label, test, test_label, batch_size=shared["batch"]
    )
    model = DIN(
        [user],
        [history],
        [item],
        mlp_params={"dims": shared["hidden"], "dropout": shared["dropout"]},
        attention_mlp_params={"dims": shared["attention_hidden"]},
    )
    trainer = CTRTrainer(
        model,
        optimizer_params={"lr": shared["learning_rate"], "weight_decay": 1e-5},
        n_epoch=shared["epochs"],
        earlystop_patience=shared["patience"],
        model_path=str(run.out),
    )
    epochs, judge, train_epoch = 0, trainer.evaluate, trainer.train_one_epoch

    def counted(*arguments: object) -> float:
        nonlocal epochs
        epochs += 1
        return train_epoch(*arguments)

    trainer.evaluate, trainer.train_one_epoch = run.timed("validate", judge), counted
    with run.phase("train"):
        trainer.fit(loaders[0], loaders[1])
    with run.phase("evaluate"):
        judge(model, loaders[1])
    with run.phase("lists"):
        probabilities = np.array(trainer.predict(model, loaders[2])).reshape(-1)
    packages = ("torch-rechub", "torch", "numpy", "pandas")
    run.finish(probabilities, examples=epochs * len(label), epochs=epochs, packages=packages)


def last(items: np.ndarray, length: int) -> np.ndarray:
    """The last ``length`` items, padded in front."""
    found = np.zeros(length, np.int64)
    found[length - len(items[-length:]) :] = items[-length:]
    return found


def two_tower(run: PeerRun) -> None:
    """Lists. Its trainer has no early stopping for this loss: epochs are chosen here, by recall on validation."""
    shared, size, length = run.settings, run.settings["size"], run.settings["length"]
    random = np.random.default_rng(run.seed)
    sequences, both = run.sequences("train"), run.sequences("train", "valid")
    catalogue = np.unique(run.columns("train")["item"])
    pairs = [(user, end) for user, items in sequences.items() for end in range(1, len(items))]
    train = {
        "user_id": np.array([user for user, _ in pairs]),
        "history": np.stack([last(sequences[user][:end], length) for user, end in pairs]),
        "item_id": np.array([sequences[user][end] for user, end in pairs]),
        "neg_items": random.choice(catalogue, (len(pairs), shared["negatives"])),
    }
    user = SparseFeature("user_id", run.facts["users"], size)
    item = SparseFeature("item_id", run.facts["items"], size, padding_idx=0)
    many = [
        SequenceFeature(name, run.facts["items"], size, pooling=pooling, shared_with="item_id", padding_idx=0)
        for name, pooling in (("history", "mean"), ("neg_items", "concat"))
    ]
    model = YoutubeDNN([user, many[0]], [item], [many[1]], {"dims": [*shared["hidden"], size]}, TEMPERATURE)
    trainer = MatchTrainer(
        model,
        mode=2,
        optimizer_params={"lr": shared["learning_rate"], "weight_decay": 1e-6},
        model_path=str(run.out),
    )
    rows = np.arange(run.facts["items"])
    loader: DataLoader = MatchDataGenerator(train, np.zeros(len(pairs))).generate_dataloader(
        {"user_id": train["user_id"]}, {"item_id": rows}, batch_size=shared["prefixes"], num_workers=0
    )[0]

    def scores(users: np.ndarray, histories: dict[int, np.ndarray]) -> np.ndarray:
        """Of all item rows [B, M]."""
        inputs = {"user_id": users, "history": np.stack([last(histories[one], length) for one in users.tolist()])}
        model.eval()
        with torch.no_grad():
            model.mode = "user"
            queries = model({name: torch.from_numpy(values) for name, values in inputs.items()})
            model.mode = "item"
            items = model({"item_id": torch.from_numpy(rows)})
        model.mode = None
        return (queries @ items.T).numpy()

    valid = {user: items[-1] for user, items in both.items() if len(items) > len(sequences.get(user, items))}
    asked = np.array([user for user in valid if user in sequences])
    target = np.array([valid[user] for user in asked.tolist()])

    def recall() -> float:
        """Share of validation items among the first ten."""
        best = run.lists(lambda users: scores(users, sequences), users=asked, seen=sequences)[:, :10]
        return float((best == target[:, None]).any(1).mean())

    best, kept, waited, epochs = -1.0, model.state_dict(), 0, 0
    with run.phase("train"):
        while epochs < shared["epochs"] and waited < shared["patience"]:
            trainer.train_one_epoch(loader)
            epochs += 1
            with run.phase("validate"):
                found = recall()
            waited = 0 if found > best else waited + 1
            if found > best:
                best, kept = found, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    with run.phase("evaluate"):
        recall()
    with run.phase("lists"):
        answers = run.lists(lambda users: scores(users, both))
    packages = ("torch-rechub", "torch", "numpy", "pandas")
    run.finish(answers, examples=epochs * len(pairs), epochs=epochs, packages=packages)


def main() -> None:
    """One system."""
    run = PeerRun.of_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    (din if run.system == "din" else two_tower)(run)


if __name__ == "__main__":
    main()
