"""A tutorial as its reader does it: files and commands are taken from the page as they stand."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.contracts.pages import ROOT, Block, blocks

TUTORIALS = ROOT / "docs" / "tutorials"


@dataclass(frozen=True)
class Step:
    """What the reader does next: types a command, in a directory that has all files of the page up to here."""

    command: str
    files: list[Block]
    """That the page gave since the step before."""

    def prepare(self, directory: Path) -> None:
        """Write the files."""
        for block in self.files:
            assert block.file is not None
            (directory / block.file).write_text(block.text)


def steps(page: Path) -> Iterator[Step]:
    """The commands of the page's `sh` blocks in order."""
    files: list[Block] = []
    for block in blocks(page):
        if block.file:
            files.append(block)
        if block.language == "sh":
            for line in block.text.splitlines():
                yield Step(line, files)
                files = []
