"""The result of parity, as a table for the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmrlhf_ray.models.verdict import Verdict


def print_verdict(model_dir: Path, verdict: Verdict, left_out: Sequence[str], file: Path) -> None:
    """Print the table, what differs, and where the verdict is kept."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=f"{model_dir} ({verdict.family}), float32", title_justify="left")
    columns = ("modality", "prompt ids", "max |Δlogprob|", "after a push", "media change", "tokens", "")
    for column in columns:
        table.add_column(column)
    for row in verdict.rows:
        figures = (shown(row.before), shown(row.after), shown(row.influence), str(row.tokens))
        table.add_row(row.case, "equal" if row.equal_ids else "DIFFER", *figures, "ok" if row.passed else "FAILED")
    if verdict.rows:
        console.print(table)
    for name in left_out:
        console.print(f"{name}: not a modality of this family")
    for row in verdict.rows:
        if row.detail:
            console.print(row.detail, markup=False)
    if verdict.reason:
        console.print(f"nothing could be compared: {verdict.reason}", markup=False)
    console.print(f"{'passed' if verdict.passed else 'FAILED'}; kept in {file}", markup=False)


def shown(figure: float | None) -> str:
    """A figure of a table; a dash where there is none."""
    return "–" if figure is None else f"{figure:.1e}"
