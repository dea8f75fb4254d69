"""Wheel and source distribution: built, looked into, installed and used, outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import corral

pytest.importorskip("build", reason="pip install 'corral[dev]'")

ROOT = Path(__file__).resolve().parents[2]
NEEDED_TO_BUILD = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff")


def run(command: list[str | Path], **environment: str) -> str:
    """What a command prints; it sees neither this repository nor this test run's settings."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CORRAL_DATA")}
    done = subprocess.run(
        command, env={**inherited, **environment}, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built of it and of nothing else."""
    source = tmp_path_factory.mktemp("source")
    for name in (*NEEDED_TO_BUILD, "constraints.txt"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", source])
    return source / "dist"


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("corral-*.whl")
    return found


def environment(folder: Path, *visible: str) -> Path:
    """The bin directory of a new virtual environment, without pip, that also sees the `visible` directories."""
    venv.create(folder, with_pip=False)
    places = {"base": str(folder), "platbase": str(folder)}
    (Path(sysconfig.get_path("purelib", "venv", places)) / "visible.pth").write_text("\n".join(visible), "utf-8")
    return Path(sysconfig.get_path("scripts", "venv", places))


def install(scripts: Path, *what: str | Path) -> None:
    """Without compiling every module of every package, which takes longer than all the rest."""
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    run([*pip, "install", "--quiet", "--no-compile", *what])


def doctor(scripts: Path, folder: Path) -> dict[str, dict[str, str]]:
    command = [scripts / "python", "-m", "corral.cli.main", "doctor", "--json", "--run-dir", folder / "runs"]
    found = json.loads(run(command))
    return {finding["name"]: finding for finding in found["findings"]}


def test_the_wheel_holds_the_package_and_its_files_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if name.startswith("corral/")}
    files = [path for path in (ROOT / "src" / "corral").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert inside == {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert {"corral/py.typed", "corral/recipes/corr.yaml", "corral/data/embedded/LICENSE.txt"} <= inside
    rest = {tuple(name.split("/", 1)) for name in names if name not in inside}
    assert all(folder.endswith(".dist-info") for folder, _ in rest)
    assert {"licenses/LICENSE", "licenses/NOTICE", "METADATA", "entry_points.txt"} <= {name for _, name in rest}


def test_the_version_is_the_same_wherever_it_stands(wheel: Path) -> None:
    assert wheel.name.split("-")[1] == corral.__version__
    assert f"\nversion: {corral.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_the_source_distribution_holds_what_a_build_needs(distributions: Path) -> None:
    (found,) = distributions.glob("corral-*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(NEEDED_TO_BUILD) <= names
    assert "src/corral/data/embedded/online_retail_events.parquet" in names
    assert not any(name.startswith(("tests", "docs", "benchmarks", "runs", "build")) for name in names)


def test_the_installed_wheel_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    scripts = environment(tmp_path / "venv", sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    install(scripts, "--no-deps", "--no-index", "--ignore-installed", wheel)
    assert "recommend" in run([scripts / "corral", "--help"])
    findings = doctor(scripts, tmp_path)
    assert str(tmp_path) in findings["corral"]["value"], "it shall be the installed package that answers"
    assert not [name for name, finding in findings.items() if finding["state"] == "broken"]
    code = "from corral.data.embedded import online_retail; print(len(online_retail().events))"
    assert run([scripts / "python", "-c", code]).strip() == "396244"
    assert "corr-general" in run([scripts / "corral", "train", "--list"])


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment with the wheel, what it needs and no extra, from the package index."""
    scripts = environment(tmp_path_factory.mktemp("bare") / "venv")
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    try:  # the build without CUDA, where the index has it
        install(scripts, "-c", ROOT / "constraints.txt", f"{torch}+cpu")
    except AssertionError:
        install(scripts, "-c", ROOT / "constraints.txt", torch)
    install(scripts, "-c", ROOT / "constraints.txt", wheel)
    return scripts


@pytest.mark.installs
def test_without_extras_everything_works_but_what_they_bring(bare: Path, tmp_path: Path) -> None:
    findings = doctor(bare, tmp_path)
    states = {name: findings[name]["state"] for name in ("torch", "ann", "serve", "redis", "report", "tune", "export")}
    assert states == {"torch": "ok", **dict.fromkeys(("ann", "serve", "redis", "report", "tune", "export"), "missing")}
    assert "pip install 'corral[serve]'" in findings["serve"]["mend"]
    (tmp_path / "mine.yaml").write_text("data: {path: shop}\nretriever: {kind: popularity}\n", "utf-8")
    events = "".join(f"u{user},i{(user * step) % 17},{step * 100}\n" for user in range(30) for step in range(1, 9))
    (tmp_path / "clicks.csv").write_text("user_id,item_id,timestamp\n" + events, "utf-8")
    corral = str(bare / "corral")
    steps = "$0 data add shop --from clicks.csv --format table --out shop && $0 train mine.yaml --run run -q"
    run(["bash", "-c", f"cd {tmp_path} && {steps} && $0 recommend run --user u3 --k 3", corral])


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
# Of those who work on the package: `make test` and `make test-all` set these up themselves.
DEVELOPERS = {"dev", "docs", "bench", "crosscheck"}


@pytest.mark.installs
@pytest.mark.parametrize(
    "extra", [pytest.param(extra, marks=[pytest.mark.slow] * (extra in DEVELOPERS)) for extra in sorted(EXTRAS)]
)
def test_each_extra_by_itself(extra: str, bare: Path, wheel: Path, tmp_path: Path) -> None:
    packages = run([bare / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    scripts = environment(tmp_path / "venv", packages)
    install(scripts, "-c", ROOT / "constraints.txt", f"corral[{extra}] @ {wheel.as_uri()}")
    findings = doctor(scripts, tmp_path)
    assert not [name for name, finding in findings.items() if finding["state"] == "broken"]
    assert findings.get(extra, {"state": "ok"})["state"] == "ok"
    run([sys.executable, "-m", "pip", "--python", scripts / "python", "check"])
