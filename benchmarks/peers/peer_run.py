"""What a peer's script is given and gives back; runs in the peer's own environment, which has numpy.

    python benchmarks/peers/peer_NAME.py SYSTEM FILES OUT SEED     # called by benchmarks/bench_peers.py

FILES holds the split (benchmarks/peer_files.py says what is in it), OUT/settings.json what models of a kind share. The
script writes OUT/answers.npy (lists of item rows of the test queries [Q, 100], 0-padded; or click probabilities of the
test examples [n]) and, last, OUT/timing.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

LIST_LENGTH = 100


def memory_peak() -> int:
    """The most memory that this process ever held, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError("/proc/self/status: no line VmHWM; memory is measured on Linux only")


class PeerRun:
    """One run of one system of a peer.

    Attributes:
        system: which model of the peer.
        files: folder of the split.
        out: folder of the answers.
        seed: of all that is random.
        facts: name and sizes of the data.
        settings: what models of this kind share: sizes, batch, learning rate, bounds of training.
        seconds: CPU and wall seconds by phase; a phase that begins within another stops that one's clock.
    """

    def __init__(self, system: str, files: Path, out: Path, seed: int = 0) -> None:
        self.system, self.files, self.out, self.seed = system, files, out, seed
        self.facts: dict[str, Any] = json.loads((files / "facts.json").read_text(encoding="utf-8"))
        self.settings: dict[str, Any] = json.loads((out / "settings.json").read_text(encoding="utf-8"))
        self.seconds: dict[str, dict[str, float]] = {}
        self._open: list[str] = []
        self._since = (0.0, 0.0)

    @classmethod
    def of_arguments(cls) -> PeerRun:
        """The run that the command line asks for."""
        system, files, out, seed = sys.argv[1:]
        return cls(system, Path(files), Path(out), int(seed))

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """The columns of a file of the split."""
        with np.load(self.files / f"{name}.npz", allow_pickle=False) as found:
            return dict(found)

    def histories(self, examples: dict[str, np.ndarray], length: int) -> np.ndarray:
        """The last ``length`` items before each click example [n, length], oldest first, 0-padded in front."""
        known, (user, seen) = self.columns("histories"), (examples["user"], examples["seen"])
        back = np.arange(length, 0, -1)
        at = (known["offsets"][user] + seen)[:, None] - back
        return np.where(back <= seen[:, None], known["items"].take(at, mode="clip"), 0)

    def sequences(self, *names: str) -> dict[int, np.ndarray]:
        """The items of each user in these files of events, oldest first."""
        parts = [self.columns(name) for name in names]
        user, item, order = (np.concatenate([part[name] for part in parts]) for name in ("user", "item", "order"))
        sort = np.lexsort((order, user))
        users, first = np.unique(user[sort], return_index=True)
        return dict(zip(users.tolist(), np.split(item[sort], first[1:]), strict=True))

    def lists(
        self,
        score: Callable[[np.ndarray], np.ndarray],
        users: np.ndarray | None = None,
        seen: dict[int, np.ndarray] | None = None,
        batch: int = 256,
    ) -> np.ndarray:
        """The best catalogue items that are new to each user [Q, 100], for libraries that give scores alone.

        Args:
            score: scores of all item rows [B, M] of users [B].
            users: whose; None: the test queries.
            seen: what each had; None: train and validation.
            batch: users at a time.
        """
        users = self.columns("test")["user"] if users is None else users
        seen = self.sequences("train", "valid") if seen is None else seen
        outside = np.setdiff1d(np.arange(self.facts["items"]), self.columns("train")["item"])
        found = []
        for start in range(0, len(users), batch):
            some = users[start : start + batch]
            scores = np.array(score(some), dtype=np.float32)
            scores[:, outside] = -np.inf
            for row, user in enumerate(some.tolist()):
                scores[row, seen[user]] = -np.inf
            best = np.argsort(-scores, axis=1, kind="stable")[:, :LIST_LENGTH]
            found.append(np.where(np.isfinite(np.take_along_axis(scores, best, 1)), best, 0))
        return np.concatenate(found)

    def start(self, phase: str) -> None:
        """Begins a phase."""
        self._charge()
        self._open.append(phase)

    def stop(self) -> None:
        """Ends the latest phase; the one around it goes on."""
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        now = (time.process_time(), time.perf_counter())
        if self._open:
            spent = self.seconds.setdefault(self._open[-1], {"cpu": 0.0, "wall": 0.0})
            spent["cpu"] += now[0] - self._since[0]
            spent["wall"] += now[1] - self._since[1]
        self._since = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a block."""
        self.start(name)
        try:
            yield
        finally:
            self.stop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each call timed as a phase."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            with self.phase(name):
                return function(*arguments, **keywords)

        return call

    def finish(self, answers: np.ndarray, *, examples: int, epochs: int, packages: tuple[str, ...]) -> None:
        """Writes answers and timing.

        Args:
            answers: lists or probabilities.
            examples: predictions that were trained on, over all epochs.
            epochs: passes over the data.
            packages: whose versions to note.
        """
        np.save(self.out / "answers.npy", answers)
        timing = {
            "seconds": self.seconds,
            "examples": examples,
            "epochs": epochs,
            "peak_bytes": memory_peak(),
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }
        (self.out / "timing.json").write_text(json.dumps(timing, indent=1) + "\n", encoding="utf-8")
