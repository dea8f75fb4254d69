"""The log of a training as TensorBoard events, where TensorBoard is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path


def tensorboard_writer(directory: Path) -> Callable[[Mapping[str, float]], None]:
    """A function that adds one epoch's record (``epoch``, ``step``, then named numbers) to ``directory``.

    After a resume an epoch may be written twice; TensorBoard shows the later one.
    """
    if find_spec("tensorboard") is None:
        return lambda record: None
    # Imported here: it takes a second, and only training needs it.
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(directory))

    def add(record: Mapping[str, float]) -> None:
        for name, value in record.items():
            if name not in ("epoch", "step"):
                writer.add_scalar(name, value, int(record["step"]))
        writer.flush()

    return add
