"""The Dockerfile: linted, and held to what docs/how-to/docker.md promises. It is not built here."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corral.cli import serve

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")


def instructions(name: str) -> list[str]:
    """What stands behind an instruction, wherever it occurs, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", TEXT)
    return [line.removeprefix(name).strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint: pip install 'corral[dev]'")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_runs_as_nobody_special_and_says_whether_it_is_well() -> None:
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    (health,) = instructions("HEALTHCHECK")
    assert "/ready" in health
    assert TEXT.index("\nUSER ") < TEXT.index("\nENTRYPOINT ")


def test_it_serves_beyond_its_loopback_explicitly_with_options_that_exist() -> None:
    (command,) = instructions("CMD")
    verb, bundle, *options = json.loads(command)
    assert (verb, bundle) == ("serve", "/data/bundle")
    assert dict(zip(options[::2], options[1::2], strict=True))["--host"] == "0.0.0.0"
    assert {option.removeprefix("--") for option in options[::2]} <= set(inspect.signature(serve.serve).parameters)


def test_all_that_is_copied_exists_and_is_not_ignored_and_torch_is_the_tested_one_for_cpus() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    first, second = (line for line in instructions("RUN") if "pip install" in line)
    assert "constraints.txt" in first
    assert "+cpu" in first
    assert "-c constraints.txt" in second
