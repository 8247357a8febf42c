"""`mmrlhf config`: job files to start from, and what their keys mean."""

import difflib
import json
from pathlib import Path
from typing import Annotated

import typer

_FEEDBACK = "feedback"


def _names() -> list[str]:
    """What a file can be printed for."""
    from mmrlhf_ray.config import JobKind
    from mmrlhf_ray.config.aliases import ALIASES

    return [*(kind.value for kind in JobKind), *ALIASES, _FEEDBACK]


def _completed(incomplete: str) -> list[str]:
    return [name for name in _names() if name.startswith(incomplete)]


def config(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB",
            help="A job (sft, ppo, …), an algorithm (grpo, dpo, …), or feedback.",
            autocompletion=_completed,
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every key, with its default and meaning.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="A JSON schema, for editors.")] = False,
    reference: Annotated[bool, typer.Option("--reference", help="The page on every key of all jobs.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write to this file, which must not be there yet.")] = None,
) -> None:
    """Print a commented job file to start from."""
    if (job is None) != reference or (reference and (full or schema)) or (full and schema):
        raise typer.BadParameter("give a JOB, with --full or --schema or neither; or --reference alone")
    text = _reference() if job is None else _schema(_known(job)) if schema else _template(_known(job), full)
    if output is None:
        print(text, end="")
        return
    if output.exists():
        raise typer.BadParameter(f"{output} is there already; remove it, or name another", param_hint="--output")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(output)


def _known(job: str) -> str:
    known = _names()
    if job in known:
        return job
    near = difflib.get_close_matches(job, known, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise typer.BadParameter(f"{job!r} is not one of {', '.join(known)}{hint}", param_hint="JOB")


def _template(job: str, full: bool) -> str:
    from mmrlhf_ray.config.template import job_template

    return job_template(job, full)


def _schema(job: str) -> str:
    from mmrlhf_ray.config import FeedbackConfig
    from mmrlhf_ray.config.described import editor_schema
    from mmrlhf_ray.config.examples import example

    kind = example(job).job
    found = editor_schema(FeedbackConfig, None) if kind is None else editor_schema(kind.config, kind.value)
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _reference() -> str:
    from mmrlhf_ray.config.reference import reference

    return reference()
