"""Templates: how pages become HTML. Every word is escaped, every file comes with the package."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

REPORT = "corral.report"


def asset(name: str, package: str = REPORT) -> str:
    """The text of a file beside the templates."""
    return (files(package) / "assets" / name).read_text(encoding="utf-8")


@cache
def templates(package: str = REPORT) -> jinja2.Environment:
    """The templates of a package and of the report, which they may extend."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "assets") for name in dict.fromkeys((package, REPORT))]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["specification"] = _specification
    return environment


def security_policy(scripts: str, forms: str) -> str:
    """A content security policy under which a page asks nobody else for anything.

    Args:
        scripts: which may run.
        forms: where forms may be sent.
    """
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        f"form-action {forms}"
    )


def _specification(spec: object) -> Markup:
    """JSON that cannot end the script element it stands in, whatever strings it holds."""
    from markupsafe import Markup

    text = json.dumps(spec, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
