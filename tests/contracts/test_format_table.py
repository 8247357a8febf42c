"""docs/data.md: the table of formats is what the registry says."""

import re
from pathlib import Path

from mmrlhf_ray.data.formats import FORMATS, KINDS, Format

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
HEAD = "| format | prompt | demonstration | preference | ranking |"


def _cell(form: Format, kind: str) -> str:
    return {(True, True): "read, write", (True, False): "read", (False, False): "–"}[
        kind in form.reads, kind in form.writes
    ]


def test_the_table_is_that_of_the_registry() -> None:
    (table,) = re.findall(rf"^{re.escape(HEAD)}\n\|[-| ]+\|\n((?:\|.*\|\n)+)", PAGE, re.M)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows == [[f"`{form.name}`", *(_cell(form, kind) for kind in KINDS)] for form in FORMATS]


def test_every_format_is_described() -> None:
    assert [form.name for form in FORMATS if PAGE.count(f"| `{form.name}` |") != 2] == []
