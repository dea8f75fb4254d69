"""The rules of ARCHITECTURE.md that a machine can check, and the tree printed there.

Run as a script (`make tree`) it writes that tree anew from the modules' docstrings.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "corral"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"

# Each layer may import from itself and from the layers before it; packages of one layer not from each other.
LAYERS = (
    ("data",),
    ("retrieval",),
    ("ranking", "sampling"),
    ("training",),
    ("corr", "rar"),
    ("evaluation",),
    ("serving",),
    ("scale",),
    ("report",),
    ("tracking",),
    ("studio",),
    ("testing",),
    ("strict_yaml",),
    ("settings_tree",),
    ("training_settings",),
    ("evidence_settings",),
    ("stage_settings",),
    ("settings", "recipes"),
    ("cli",),
    ("two_stage",),
    ("__main__",),
)
# What `corral` itself may name, inside a function: importing it stays light.
OFFERED = "two_stage"
SETTINGS = ("settings_tree", "training_settings", "evidence_settings", "stage_settings", "settings")
DEPTH = {package: depth for depth, layer in enumerate(LAYERS) for package in layer}

FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "base", "misc"}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
# Put together from pieces, so that this file does not contain what it looks for.
FORBIDDEN_TEXT = {
    "a path of one machine": r"(?<![\w.$~})-])/(?:work|root|home|Users|opt/wheels|opt/pypi)/",
    "a host of a package registry": "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("download", "pytorch", "org"),
            ("registry", "npmjs", "org"),
            ("deb", "debian", "org"),
            ("anaconda", "org"),
            ("proxy", "golang", "org"),
            ("crates", "io"),
        )
    ),
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def package_of(path: Path) -> str:
    """The first word below `corral`: a package or a module beside the packages; "" for corral itself."""
    first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all imports, also those inside functions; relative ones made absolute."""
    package = ("corral", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *(node.module.split(".") if node.module else ())))
            yield from ((node.lineno, f"{module}.{name.name}") for name in node.names)


def import_faults(path: Path, tree: ast.AST) -> Iterator[str]:
    package = package_of(path)
    for line, name in imported(path, tree):
        parts = name.split(".")
        if parts[0] in FORBIDDEN_IMPORTS:
            yield f"{path}:{line}: {parts[0]} is not allowed: saved files are tensors and JSON"
        target = parts[1] if parts[0] == "corral" and len(parts) > 1 else ""
        if target not in DEPTH or target == package:
            continue
        if not package:
            if target != OFFERED:
                yield f"{path}:{line}: corral may not import {target}, only {OFFERED}"
        elif DEPTH[target] >= DEPTH[package]:
            yield f"{path}:{line}: {package} may not import {target}: the order is {LAYERS}"
        elif target in SETTINGS and package not in (*SETTINGS, "cli", OFFERED):
            yield f"{path}:{line}: only cli knows the settings; pass keywords"


def call_faults(path: Path, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, where = ast.unparse(node.func), f"{path}:{node.lineno}"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in FORBIDDEN_CALLS:
            yield f"{where}: {called} is not allowed"
        if called == "torch.load" and keywords.get("weights_only") != "True":
            yield f"{where}: torch.load needs weights_only=True"
        if keywords.get("allow_pickle", "False") != "False":
            yield f"{where}: allow_pickle must be False"


def faults_in(path: Path, text: str) -> list[str]:
    tree = ast.parse(text)
    faults = [*import_faults(path, tree), *call_faults(path, tree)]
    faults += [
        f"{path}:{node.lineno}: no **{node.args.kwarg.arg}: name the keywords"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.args.kwarg
    ]
    return faults


def test_modules_keep_the_rules() -> None:
    assert modules(), "no modules found"
    assert [fault for path in modules() for fault in faults_in(path, path.read_text("utf-8"))] == []


def test_every_package_has_its_place_in_the_order() -> None:
    assert {package_of(path) for path in modules()} - {""} <= set(DEPTH)


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("data/x.py", "from corral.retrieval import index"),
        ("data/x.py", "def f():\n    import corral.training.fit"),
        ("ranking/x.py", "from ..sampling import uniform"),
        ("rar/x.py", "from corral import corr"),
        ("report/x.py", "from corral.settings import Settings"),
        ("__init__.py", "from corral.serving import recommender"),
        ("cli/x.py", "from corral.two_stage import TwoStage"),
        ("retrieval/x.py", "import pickle"),
        ("retrieval/x.py", "eval('1')"),
        ("retrieval/x.py", "torch.load(path)"),
        ("retrieval/x.py", "np.load(path, allow_pickle=True)"),
        ("retrieval/x.py", "def f(**options): ..."),
    ],
)
def test_the_check_finds_a_broken_rule(where: str, code: str) -> None:
    assert len(faults_in(SOURCE / where, code)) == 1


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("cli/x.py", "from corral.settings import Settings\nfrom corral import __version__"),
        ("ranking/x.py", "from corral.retrieval.index import ExactIndex\nfrom . import fields"),
        ("training/x.py", "model.eval()\ntorch.load(path, weights_only=True)"),
    ],
)
def test_the_check_lets_good_code_pass(where: str, code: str) -> None:
    assert faults_in(SOURCE / where, code) == []


def project_files() -> list[Path]:
    """What git tracks or would track; everything but hidden folders where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and "/." not in str(path.relative_to(ROOT))]


def test_no_catch_all_file_names() -> None:
    assert [path for path in project_files() if path.suffix == ".py" and path.stem in FORBIDDEN_NAMES] == []


@pytest.mark.parametrize("what", FORBIDDEN_TEXT)
def test_files_name_no_machine_and_no_registry(what: str) -> None:
    pattern = re.compile(FORBIDDEN_TEXT[what])
    found = [
        f"{path}:{number}: {line.strip()[:120]}"
        for path in project_files()
        for number, line in enumerate(path.read_text("utf-8", errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_requirements_have_no_upper_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = [
        [project["requires-python"]],
        project["dependencies"],
        *project["optional-dependencies"].values(),
    ]
    found = [one for requirements in lists for one in requirements]
    assert [one for one in found if re.search(r"<|==|~=|!=", one.partition(";")[0])] == []


def test_embedded_data_carries_its_licence() -> None:
    licences = list((SOURCE / "data" / "embedded").glob("*LICEN[CS]E*"))
    assert licences, "src/corral/data/embedded holds data without a licence file"
    assert any("CC BY 4.0" in path.read_text("utf-8") for path in licences)


# --- the tree in ARCHITECTURE.md ---

TREE = re.compile(r"(?<=<!-- tree: `make tree` writes it -->\n```\n).*?(?=```\n)", re.DOTALL)


def description(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return re.split(r"(?<!\bal)\.(?:\s|$)", text.split("\n\n")[0].replace("\n", " "), maxsplit=1)[0]


def tree(folder: Path = SOURCE, indent: str = "") -> Iterator[str]:
    """One line a module, folders after the order of imports, each with what it is for."""
    init = folder / "__init__.py"
    what_for = description(init) if init.exists() else ""
    yield f"{indent}{folder.name + '/':<{28 - len(indent)}}{what_for}".rstrip()
    inside = [path for path in folder.iterdir() if path.name not in {"__init__.py", "__pycache__"}]
    for path in sorted(inside, key=lambda path: (path.is_dir(), DEPTH.get(path.name, -1), path.name)):
        if path.is_dir() and any(path.rglob("*.py")):
            yield from tree(path, indent + "  ")
        elif path.suffix == ".py":
            yield f"{indent}  {path.name:<{26 - len(indent)}}{description(path)}".rstrip()


def test_the_printed_tree_is_the_tree_on_disk() -> None:
    printed = TREE.search(ARCHITECTURE.read_text("utf-8"))
    assert printed, "ARCHITECTURE.md has no tree between its markers"
    assert printed[0].splitlines() == list(tree()), "make tree writes it anew"


def test_every_module_says_what_it_is_for() -> None:
    assert [path for path in modules() if not description(path)] == []


if __name__ == "__main__":
    ARCHITECTURE.write_text(TREE.sub(lambda _: "\n".join(tree()) + "\n", ARCHITECTURE.read_text("utf-8")), "utf-8")
