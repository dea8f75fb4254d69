"""Builds the documentation's site: docs/ and what it links to, as pages that need no network.

    python tools/build_docs.py [DIRECTORY]

Documents are written to be read in the repository, so they link to sources, tests and the files at its root. A site
knows pages alone: each linked file becomes one, and the links are rewritten. All that is staged in DIRECTORY/docs, the
site is DIRECTORY/site; DIRECTORY is ``build`` where none is given. The navigation is in zensical.toml.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")  # pages of the site though they lie outside docs/
LINK_OR_CODE = re.compile(
    r"^```.*?^```$|(?P<text>!?\[[^\]]*\]\()(?P<target>[^)\s]+)\)|`[^`\n]*`", re.DOTALL | re.MULTILINE
)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}


def page_of(file: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository stands in the site; both relative to their roots."""
    if file.parts[0] == "docs":
        return file.relative_to("docs")
    if file.suffix == ".md" and len(file.parts) == 1:
        return PurePosixPath("project", file.name.lower())
    if (ROOT / file).is_dir():
        return PurePosixPath("source", *file.parts, "index.md")
    return PurePosixPath("source", *file.parts[:-1], file.name + ".md")


def with_links_of_the_site(text: str, document: PurePosixPath, found: set[PurePosixPath]) -> str:
    """The text of a document with its links changed; the linked files are added to `found`."""

    def rewritten(match: re.Match[str]) -> str:
        target, hash_sign, anchor = (match["target"] or "").partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        file = PurePosixPath(os.path.normpath(document.parent / target))
        found.add(file)
        return f"{match['text']}{os.path.relpath(page_of(file), page_of(document).parent)}{hash_sign}{anchor})"

    return LINK_OR_CODE.sub(rewritten, text)


def page_text(file: PurePosixPath, found: set[PurePosixPath]) -> str:
    """What a file of the repository says as a page: a document, the source of a file, or the list of a folder."""
    path = ROOT / file
    if path.is_dir():
        files = sorted(name for name in os.listdir(path) if (path / name).is_file())
        lines = [f"- [`{name}`]({name})" for name in files]
        return with_links_of_the_site("\n".join([f"# {file}", "", *lines, ""]), file / "index.md", found)
    text = path.read_text("utf-8")
    if file.suffix == ".md":
        return with_links_of_the_site(text, file, found)
    return f"---\nsearch:\n  exclude: true\n---\n\n# {file}\n\n~~~~{LANGUAGES.get(path.suffix, 'text')}\n{text}~~~~\n"


def stage(stage_directory: Path) -> None:
    """Write all pages, and the assets beside them, into an empty directory."""
    shutil.rmtree(stage_directory, ignore_errors=True)
    files = [path for path in (ROOT / "docs").rglob("*") if path.is_file()]
    waiting = {PurePosixPath(path.relative_to(ROOT).as_posix()) for path in files}
    waiting |= {PurePosixPath(name) for name in PROJECT if (ROOT / name).exists()}
    done: set[PurePosixPath] = set()
    while waiting:
        file = waiting.pop()
        done.add(file)
        if file.parts[0] == ".." or not (ROOT / file).exists():
            raise SystemExit(f"{file}: a document links to it, but there is no such file in the repository")
        page = stage_directory / page_of(file)
        page.parent.mkdir(parents=True, exist_ok=True)
        if file.parts[0] == "docs" and file.suffix != ".md":
            shutil.copyfile(ROOT / file, page)
            continue
        found: set[PurePosixPath] = set()
        page.write_text(page_text(file, found), "utf-8")
        waiting |= found - done


def build(directory: Path) -> Path:
    """Stage and build; the site's directory. Raises CalledProcessError for broken links, which are printed."""
    stage(directory / "docs")
    shutil.copyfile(ROOT / "zensical.toml", directory / "zensical.toml")
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=directory, check=True)
    return directory / "site"


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build") / "index.html")
    except subprocess.CalledProcessError:
        raise SystemExit("The site was not built: see above.") from None
