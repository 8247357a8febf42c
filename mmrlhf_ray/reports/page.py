"""How every report page is rendered: one file, no network, everything that comes from data escaped."""

import base64
import hashlib
from pathlib import Path

import jinja2

from mmrlhf_ray.reports.serving import page_policy


def page_environment(package: str) -> jinja2.Environment:
    """Templates of `package`, and the parts that all pages share. A name that a template lacks is an error."""
    loaders = [jinja2.PackageLoader(package), jinja2.PackageLoader("mmrlhf_ray.reports")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def inline_policy(style: str) -> str:
    """The Content-Security-Policy of a file that holds its style sheet and media, and runs no script."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return page_policy(media="data:", style=f"'sha256-{digest}'")


def write_page(path: Path, text: str) -> None:
    """Write a page that is there completely or not at all; directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError:  # a full disk
        fresh.unlink(missing_ok=True)
        raise
