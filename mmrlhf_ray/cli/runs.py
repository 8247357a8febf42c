"""`mmrlhf runs`: which runs there are, and pages on one or several. `mmrlhf report`: such a page as a file."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Context

from mmrlhf_ray.cli.groups import Group

if TYPE_CHECKING:
    from mmrlhf_ray.pipelines.runs.read import Run

_LIST = "list"


class _RunsGroup(Group):
    """`mmrlhf runs [DIR]` is `mmrlhf runs list [DIR]`."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not args or (args[0] not in self.commands and not args[0].startswith("-") and self._is_place(args[0])):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)

    def _is_place(self, name: str) -> bool:
        """Rather than a command that was mistyped."""
        return Path(name).exists() or not self.nearest(name)


app = typer.Typer(cls=_RunsGroup, help="List runs, look at one, compare several.")

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")]
RunPaths = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs, 4 at most.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")]
Once = Annotated[Path | None, typer.Option(metavar="FILE", help="Write one file instead of serving.")]


@app.command(name=_LIST)
def list_runs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory that runs are in.")] = Path("runs"),
) -> None:
    """List the runs in a directory, the one that wrote last first."""
    from mmrlhf_ray.pipelines.runs.read import find_runs

    found = find_runs(directory)
    if not found:
        print(f"{directory}: no runs; a job writes one, by default to runs/<name>")
    for line in _aligned([_row(run) for run in found]):
        print(line)


@app.command()
def show(run: RunPath, port: Port = 0) -> None:
    """Look at a run in the browser, while it goes on or afterwards.

    Curves by group, and kept responses step by step: those to one prompt next to each other with their media, tokens
    coloured by advantage, KL or mismatch, filters, worst and best first.
    """
    from mmrlhf_ray.pipelines.runs import show as pages

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends it as Ctrl-C does
    pages.show(run, port)


@app.command()
def compare(runs: RunPaths, port: Port = 0, once: Once = None) -> None:
    """Compare runs in the browser.

    Their curves over each other, what was set differently, and where their figures ended.
    """
    from mmrlhf_ray.pipelines.runs import show as pages

    if once is not None:
        print(pages.write_report(runs, once))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pages.compare(runs, port)


def report(
    runs: RunPaths,
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: run.html in the run, or compare.html here for several.")
    ] = None,
) -> None:
    """Write one file with a run's curves and responses, or with several runs next to each other.

    It needs no network and runs no script, so that it can be sent around.
    """
    from mmrlhf_ray.pipelines.runs.show import REPORT_FILE, write_report

    print(write_report(runs, output or (runs[0] / REPORT_FILE if len(runs) == 1 else Path("compare.html"))))


def _row(run: "Run") -> tuple[str, ...]:
    from mmrlhf_ray.runtime.progress import duration

    figures = run.figures
    step = f"{run.done}/{run.steps}" if run.steps else str(run.done or "")
    return str(run.path), run.job, run.state, step, str(figures[0]) if figures else "", f"{duration(run.age)} ago"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    titles = ("run", "job", "state", "step", "figure", "wrote")
    columns = list(zip(titles, *rows, strict=True)) if rows else []
    widths = [max(map(len, column)) for column in columns]
    lines = [titles, *rows] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
