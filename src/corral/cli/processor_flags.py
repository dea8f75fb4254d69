"""What the processor says that it can do, as Linux tells; elsewhere nothing is known."""

from __future__ import annotations

import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Instructions that multiply in bfloat16, of x86 and of ARM; without them it is emulated, and slower than float32.
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def processor_flags() -> frozenset[str]:
    """The names of its features."""
    if not CPUINFO.exists():
        return frozenset()
    match = re.search(r"^(flags|Features)\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE)
    return frozenset(match[2].split()) if match else frozenset()
