"""The command line: one verb a module, and one place that turns errors into a clear line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from corral import __version__
from corral.cli.examination import EXTRAS

# The order of `corral --help`. A verb's module holds either `app`, a group of commands, or a function of the
# verb's name. It imports heavy libraries inside its functions, never at its top: help comes up at once.
VERBS = (
    "demo",
    "data",
    "train",
    "tune",
    "evaluate",
    "recommend",
    "rerank",
    "export",
    "serve",
    "studio",
    "report",
    "compare",
    "track",
    "leakage",
    "forget",
    "bench",
    "doctor",
)
EXTRA_OF_MODULE = {module: extra for extra, parts in EXTRAS.items() for module in parts.values()}
DEBUG = "--debug"

app = typer.Typer(
    name="corral",
    help="Two-stage recommenders: find candidates, then put them in order. Start with: corral demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"corral {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an error (may stand anywhere in the line).")
    ] = False,
) -> None:
    """Options of every verb; ``main`` has taken ``--debug`` out by the time this runs."""


def _mount() -> None:
    for verb in VERBS:
        if find_spec(f"corral.cli.{verb}") is None:
            continue
        module = import_module(f"corral.cli.{verb}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(verb)(getattr(module, verb))


_mount()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    0 done; 1 done, and the answer is no (``doctor`` found something broken, ``leakage`` a leak); 2 the request or its
    data is wrong, said in one line on stderr; 130 interrupted. Any other error is our fault and shows its traceback.

    Args:
        arguments: the words after ``corral``; None takes the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    try:
        typer.main.get_command(app)(args=[word for word in words if word != DEBUG], prog_name="corral")
    except (ValueError, OSError) as error:
        if debug:
            raise
        _fail(str(error))
    except ModuleNotFoundError as error:
        extra = EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if debug or extra is None:
            raise
        _fail(f"This needs {error.name}, which is not installed: pip install 'corral[{extra}]'")
    except KeyboardInterrupt:  # outside the command itself, e.g. while modules load
        sys.exit(130)


def _fail(message: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]Error:[/] [red]{escape(message)}[/]")
    sys.exit(2)


if __name__ == "__main__":
    main()
