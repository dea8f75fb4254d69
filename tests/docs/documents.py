"""The code of README.md and docs/, run: each document in an empty folder of its own, its blocks in order.

``python`` blocks of one document share their names; the lines of a ``console`` block that start with ``$ ``
run in bash, where `corral` and `python` are those of this environment. What a console block shows below its
commands is for the reader and is not compared. A block is left out only with a reason, in a comment on the
line above it: ``<!-- not run: REASON -->``. Where several pages begin with the same training of a shipped recipe on
the data that it names, the first one's run is copied to the others.
"""

from __future__ import annotations

import hashlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = sorted((ROOT / "docs" / "how-to").rglob("*.md"))
OTHERS = sorted(
    path
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if path not in HOW_TO and (ROOT / "docs" / "results") not in path.parents  # results hold no code
)
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*\S[^\n]*) -->\n)?```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
RUNS = {"python", "console"}
SHOWN_ONLY = {"", "text", "yaml", "json", "csv", "toml"}
TIMEOUT_SECONDS = 600
# One command whose result depends on nothing in the folder: no YAML file, no data set of the reader's.
SHIPPED_TRAINING = re.compile(r"corral train [\w-]+(?: [\w.]+=[\w.]+)* --run (?P<run>\S+) --quiet")
TRAINED = tempfile.TemporaryDirectory(prefix="corral-documents-")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int  # of the first line of code
    reason: str | None


def blocks(text: str) -> Iterator[Block]:
    for match in BLOCK.finditer(text):
        yield Block(match["language"], match["code"], text.count("\n", 0, match.start("code")) + 1, match["reason"])


def commands(block: Block) -> str:
    """The commands of a console block as a bash script."""
    lines = block.code.replace("\\\n", "\\\0").splitlines()  # a continued line stays with its command
    return "\n".join(line[2:].replace("\\\0", "\\\n") for line in lines if line.startswith("$ "))


def run_document(text: str, folder: Path) -> None:
    """Run all blocks; an error names the block's line in the document."""
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(text)):
        assert block.language in RUNS | SHOWN_ONLY, f"line {block.line}: use console or python, not {block.language}"
        if block.reason or block.language not in RUNS:
            continue
        if block.language == "python":
            script = folder / f".block_{number}.py"
            script.write_text("\n" * (block.line - 1) + block.code, "utf-8")  # tracebacks show the document's lines
            names |= runpy.run_path(str(script), names)
            continue
        script = commands(block)
        training = SHIPPED_TRAINING.fullmatch(re.sub(r"\s*\\\n\s*", " ", script))
        if training is None:
            run_console(script, block.line)
            continue
        run = folder / training["run"]
        kept = Path(TRAINED.name) / hashlib.sha256(training[0].encode()).hexdigest()
        if not kept.exists():
            run_console(script, block.line)
            shutil.copytree(run, kept)
        elif not run.exists():
            shutil.copytree(kept, run)


def run_console(script: str, line: int) -> None:
    assert script, f"line {line}: a console block without a command (a line that starts with '$ ')"
    python = shlex.quote(sys.executable)
    functions = f'python() {{ {python} "$@"; }}\ncorral() {{ {python} -m corral.cli.main "$@"; }}\n'
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", functions + script],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    said = f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    assert result.returncode == 0, f"line {line}: exit code {result.returncode}\n{script}\n{said}"
