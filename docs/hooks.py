"""Parts of the documentation's site that lie outside docs/: README.md as its first page, the pages next to it, and what
pages link to."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
_FIRST = "README.md"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root, every file that pages link to, and those that these link to."""
    waiting = [page.name for page in sorted(ROOT.glob("*.md"))]
    waiting += [_in_repository(file.src_uri) for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        uri = _in_site(source)
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
        if source.endswith(".md"):
            found = {target for link in _LINK.findall((ROOT / source).read_text()) if (target := _target(source, link))}
            waiting += sorted(found - seen)
            seen |= found
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as they are in the site."""
    source = _in_repository(page.file.src_uri)

    def in_site(link: re.Match[str]) -> str:
        target = _target(source, link[1])
        if target is None:
            return link[1]
        return os.path.relpath(_in_site(target), PurePosixPath(_in_site(source)).parent)

    return _LINK.sub(in_site, markdown)


def _target(source: str, link: str) -> str | None:
    """The file of the repository that a link leads to; None where it leads to none."""
    if "://" in link:
        return None
    target = Path(os.path.normpath(ROOT / PurePosixPath(source).parent / link))
    return target.relative_to(ROOT).as_posix() if target.is_file() and target.is_relative_to(ROOT) else None


def _in_site(source: str) -> str:
    return "index.md" if source == _FIRST else source.removeprefix("docs/")


def _in_repository(uri: str) -> str:
    if uri == "index.md":
        return _FIRST
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri
