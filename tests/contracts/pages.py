"""The pages of the documentation: their code blocks, and the commands that they show."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/tutorials/*.md",
        "docs/scenarios/*.md",
        "cluster/*.md",
        ".github/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials"]
_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.M | re.S)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_STARTS = re.compile(
    r"(?:[A-Z_]+=\S+ )*"
    r"(?:mmrlhf|python|pytest|make|pip|ray|serve|tensorboard|sbatch|kubectl|docker|curl|export|source|cd|mkdir"
    r"|cluster/\S+|\.\./cluster/\S+|\.venv/bin/\S+|\.ci/run)(?= |$)"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of the fence, from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """Name of the file that it is, where its first line is a comment with one."""
        found = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None


def blocks(page: Path, *languages: str) -> list[Block]:
    """Those of a page in one of the languages, in order; without languages all of them."""
    text = page.read_text()
    found = (
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], re.sub(f"^{match[1]}", "", match[3], flags=re.M))
        for match in _FENCE.finditer(text)
    )
    return [block for block in found if not languages or block.language in languages]


def commands(page: Path) -> Iterator[str]:
    """Lines of blocks without a language or in `sh`, indented lines, and spans of code, that start with a program."""
    for block in blocks(page, "", "sh"):
        lines = block.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):  # with what they print
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        yield from (line.split("  #")[0].strip() for line in lines if _STARTS.match(line))
    yield from (line.strip() for line in re.findall(r"^ {4}(?=\S)(.*)$", page.read_text(), re.M) if _STARTS.match(line))
    yield from (span for span in _SPAN.findall(_FENCE.sub("", page.read_text())) if _STARTS.match(span))
