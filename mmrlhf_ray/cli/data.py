"""`mmrlhf data`: what a data set holds and what is wrong with it; the same in another format; its rows as a page."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mmrlhf_ray.cli.groups import Group

if TYPE_CHECKING:
    from mmrlhf_ray.config import DataConfig
    from mmrlhf_ray.config.data import MediaLimits
    from mmrlhf_ray.data.formats import Kind

app = typer.Typer(cls=Group, help="Look at data sets, check them, convert them.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="PATH", help="File, directory, URL or `hf:NAME`, as data.path.")]
Format = Annotated[
    str | None, typer.Option("--format", help="Format of the rows (docs/data.md). Default: detected from the rows.")
]
KindOption = Annotated[
    str | None,
    typer.Option("--kind", help="Read rows as prompt, demonstration, preference or ranking. Default: detected."),
]
Split = Annotated[str | None, typer.Option(help="Split of a Hugging Face data set.")]
MediaRoot = Annotated[
    str | None, typer.Option(help="Directory that media paths are relative to. Default: that of the file.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="KEY=NAME,…",
        help="Other names for keys of the rows, e.g. question=prompt,answer=response; `KEY=` leaves one out.",
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="Fetch media at https addresses of this host; `.example.org` for all below it."),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=NUMBER", help="A limit of media, e.g. seconds=1200; data.limits in docs/data.md."),
]


@app.command()
def check(
    path: Source,
    format_name: Format = None,
    kind: KindOption = None,
    split: Split = None,
    media_root: MediaRoot = None,
    columns: Columns = None,
    allow_host: AllowHost = None,
    limit: Limit = None,
    model: Annotated[Path | None, typer.Option(help="Model directory, to count tokens with its processor.")] = None,
    allow_token: Annotated[
        list[str] | None, typer.Option(metavar="TOKEN", help="A special token that texts may hold, with --model.")
    ] = None,
    max_prompt_tokens: Annotated[int, typer.Option(min=1, help="Count prompts that are longer.")] = 1024,
    output: Annotated[Path | None, typer.Option(help="Write every bad row to this file, as JSON lines.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with status 1 when a row is bad.")] = False,
) -> None:
    """Say what a data set is, and which rows cannot be used.

    Counts rows, media and tokens.
    """
    from mmrlhf_ray.pipelines.data import check as data_check

    config = _config(path, format_name, split, media_root, columns, allow_host, limit, max_prompt_tokens)
    good = data_check.run(config, _kind(kind), model, output, strict, tuple(allow_token or ()))
    raise typer.Exit(0 if good else 1)


@app.command()
def convert(
    path: Source,
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="A .jsonl or .parquet file, or a directory for mmrlhf's own tables.")
    ],
    to: Annotated[str, typer.Option(help="Format to write (docs/data.md).")],
    format_name: Format = None,
    kind: KindOption = None,
    split: Split = None,
    media_root: MediaRoot = None,
    columns: Columns = None,
    allow_host: AllowHost = None,
    limit: Limit = None,
    strict: Annotated[bool, typer.Option("--strict", help="Write nothing when a row is bad.")] = False,
) -> None:
    """Write a data set in another format.

    Its media go into media/ alongside it, or inside the rows.
    """
    from mmrlhf_ray.pipelines.data import convert as data_convert

    config = _config(path, format_name, split, media_root, columns, allow_host, limit)
    print(data_convert.run(config, destination, to, _kind(kind), strict))


@app.command()
def show(
    path: Source,
    format_name: Format = None,
    kind: KindOption = None,
    split: Split = None,
    media_root: MediaRoot = None,
    columns: Columns = None,
    allow_host: AllowHost = None,
    limit: Limit = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 = any that is free.")] = 0,
    rows: Annotated[int, typer.Option(min=1, max=500, help="Rows of a page.")] = 20,
    once: Annotated[
        Path | None, typer.Option(help="Write the first page to this HTML file, media inside, and end.")
    ] = None,
) -> None:
    """Open a page on this machine that shows the rows and their media."""
    from mmrlhf_ray.pipelines.data import show as data_show

    config = _config(path, format_name, split, media_root, columns, allow_host, limit)
    if once is not None:
        print(data_show.write_page(config, _kind(kind), rows, once))
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends it as Ctrl-C does
        data_show.serve(config, _kind(kind), rows, port)


def _config(
    path: str,
    format_name: str | None,
    split: str | None,
    media_root: str | None,
    columns: list[str] | None,
    allow_host: list[str] | None,
    limit: list[str] | None,
    max_prompt_tokens: int = 1024,
) -> "DataConfig":
    from mmrlhf_ray.config import DataConfig
    from mmrlhf_ray.config.data import RemoteMedia

    return DataConfig(
        path=path,
        format=format_name,
        split=split,
        media_root=media_root,
        columns={key: name or None for key, name in _pairs(columns, "--columns").items()},
        remote=RemoteMedia(allow_hosts=tuple(allow_host or ())),
        limits=_limits(limit),
        max_prompt_tokens=max_prompt_tokens,
        on_bad_row="quarantine",
    )


def _pairs(options: list[str] | None, name: str) -> dict[str, str]:
    """`KEY=VALUE` by key, several to an option where commas separate them."""
    pairs = {}
    for item in (item for option in options or () for item in option.split(",")):
        key, equals, value = (part.strip() for part in item.rpartition("="))
        if not key or not equals:
            raise typer.BadParameter(f"{item!r} is not KEY=VALUE", param_hint=name)
        if key in pairs:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint=name)
        pairs[key] = value
    return pairs


def _limits(options: list[str] | None) -> "MediaLimits":
    from pydantic import ValidationError

    from mmrlhf_ray.config.data import MediaLimits

    try:
        return MediaLimits.model_validate(_pairs(options, "--limit"))
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        known = ", ".join(MediaLimits.model_fields)
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}; expected a number for one of {known}"
        raise typer.BadParameter(reason, param_hint="--limit") from None


def _kind(name: str | None) -> "Kind | None":
    from mmrlhf_ray.data.formats import KINDS

    if name is not None and name.upper() not in KINDS:
        known = ", ".join(kind.lower() for kind in KINDS)
        raise typer.BadParameter(f"{name!r} is not a kind of record; expected one of {known}", param_hint="--kind")
    return None if name is None else cast("Kind", name.upper())
