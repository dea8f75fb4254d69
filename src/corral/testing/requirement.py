"""require and require_close: a promise that is kept, or an AssertionError that says which one was broken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def require(kept: object, promise: str) -> None:
    """Passes where ``kept`` is true; also under ``python -O``, which takes ``assert`` away.

    Raises:
        AssertionError: it is not.
    """
    if not bool(kept):
        raise AssertionError(promise)


def require_close(found: Tensor, wanted: Tensor, promise: str, *, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    """Passes where two tensors of one shape agree.

    Raises:
        AssertionError: they do not; the greatest difference is named.
    """
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, msg=lambda how: f"{promise}\n{how}")


def require_refused(call: Callable[[], object], promise: str) -> None:
    """Passes where the call raises ValueError.

    Raises:
        AssertionError: it does not.
    """
    try:
        call()
    except ValueError:
        return
    raise AssertionError(promise)
