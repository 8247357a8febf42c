"""Commands of `mmrlhf feedback` that work on an export: agreement, records, other tools. They need no database."""

from pathlib import Path
from typing import Annotated

import typer

from mmrlhf_ray.errors import needs

app = typer.Typer()

Export = Annotated[Path, typer.Argument(metavar="X.PARQUET", help="What `mmrlhf feedback export` wrote.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.")]


@app.command()
def agreement(export: Export, seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0) -> None:
    """Say how far annotators agree.

    And how reliable each of them is.
    """
    needs("feedback")
    from rich.console import Console

    from mmrlhf_ray.feedback.annotations import comparisons_of
    from mmrlhf_ray.feedback.labels.agreement import agreement as alphas
    from mmrlhf_ray.feedback.labels.agreement import by_annotators, pairwise_agreement
    from mmrlhf_ray.feedback.labels.bias import biases
    from mmrlhf_ray.feedback.labels.consensus import consensus
    from mmrlhf_ray.feedback.labels.files import read_export
    from mmrlhf_ray.feedback.labels.quality import annotator_quality
    from mmrlhf_ray.feedback.labels.report import agreement_table, bias_table, pairs_table, quality_table

    read = read_export(export)
    overall, each = pairwise_agreement(read.annotations)
    comparisons = list(comparisons_of(by_annotators(read.annotations)))
    reliability = dict(consensus(comparisons, "dawid_skene").reliability) if overall.shared else None
    console = Console()
    console.print(agreement_table(alphas(read.annotations, read.tasks, seed)))
    console.print(pairs_table(overall, each))
    console.print(quality_table(annotator_quality(read.annotations, {}), reliability))
    console.print(bias_table(biases(read.annotations, read.tasks)))


@app.command()
def derive(
    export: Export,
    out: Out,
    kind: Annotated[str, typer.Option(help="preference, ranking or demonstration.")] = "preference",
) -> None:
    """Turn annotations into records for `data.path`."""
    from mmrlhf_ray.feedback.labels.files import derived_kind, read_export, write_derived

    print(f"{out}: {write_derived(read_export(export), derived_kind(kind), out)} records")


@app.command("to")
def to_tool(tool: Annotated[str, typer.Argument(help="argilla or label_studio.")], export: Export, out: Out) -> None:
    """Write annotations as another tool reads them."""
    from mmrlhf_ray.feedback.labels.files import WRITERS, read_export, tool_named

    written = WRITERS[tool_named(tool)](read_export(export), out)
    kept = (
        f"; {written.regions_kept} regions that {tool} cannot show travel along unseen" if written.regions_kept else ""
    )
    print(f"{out}: {written.items} items{kept}")


@app.command("import")
def import_from(
    tool: Annotated[str, typer.Argument(help="argilla or label_studio.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its export, .json or .jsonl.")],
    out: Out,
) -> None:
    """Read another tool's annotations.

    Into annotations.jsonl and prompts.jsonl.
    """
    from mmrlhf_ray.feedback.labels.files import read_foreign, tool_named, write_imported

    imported = read_foreign(file, tool_named(tool))
    count = write_imported(imported, out)
    print(f"{out}: {count} annotations of {len(imported.prompts)} prompts; {imported.left_out} answers left out")
