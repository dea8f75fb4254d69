"""write_tensors: a safetensors file that whoever may read its neighbours may read"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors, contiguous and without shared memory, with the mode that any new file gets here.

    safetensors makes files of mode 0600: who trains and who serves are often two users.

    Raises:
        SafetensorError: the disk is full, or cannot be written.
    """
    path.touch()  # as the umask says
    mode = path.stat().st_mode & 0o777
    save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    path.chmod(mode)
