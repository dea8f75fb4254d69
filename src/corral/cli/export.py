"""corral export: a bundle's models as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run directory that holds one.")],
    out: Annotated[Path, typer.Option(help="The directory to write.")],
    tolerance: Annotated[
        float, typer.Option(help="Largest absolute difference to torch that is accepted.", min=0.0)
    ] = 1e-4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older export.")] = False,
) -> None:
    """Write user tower, item tower and ranker as ONNX files, each checked against torch on queries of the bundle.

    export.json beside them says what goes in and out. Batch and number of candidates are free. corral serve --onnx runs
    them; so does any ONNX Runtime.

    Examples:

    corral export runs/demo --out demo-onnx
    """
    from rich.console import Console

    from corral.cli.run import bundle_folder, open_recommender
    from corral.serving.manifest import read_manifest
    from corral.serving.onnx.export import export_onnx

    manifest = read_manifest(bundle_folder(bundle))
    facts = {"version": manifest.version, **manifest.data}
    done = export_onnx(out, open_recommender(bundle, "cpu"), facts, tolerance=tolerance, overwrite=overwrite)
    console = Console(soft_wrap=True, highlight=False)
    for model in done:
        console.print(
            f"{out / model.name}.onnx: {model.part}, max abs difference {model.max_abs_difference:.1e} "
            f"over {model.queries} queries",
            markup=False,
        )
