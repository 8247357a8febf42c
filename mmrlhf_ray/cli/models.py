"""Commands for what comes after training: `mmrlhf export`, `push`, `generate`, `chat` and `serve`."""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrlhf_ray.errors import ConfigError, needs

if TYPE_CHECKING:
    from mmrlhf_ray.pipelines.export.quantized import Quantized

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Directory in Hugging Face format, a run that exported one, or hf:ORG/NAME."),
]

SERVE_TOKEN, _FEEDBACK_TOKEN = "MMRLHF_SERVE_TOKEN", "MMRLHF_FEEDBACK_TOKEN"
"""Environment variables: of those who may ask the served model, and of the account that reports to the feedback app."""


def add_model_commands(app: typer.Typer) -> None:
    """All of them."""
    for command in (export, push, generate, chat, serve):
        app.command()(command)


def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run's directory, one of its checkpoints; with --quantize, also a model."),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; must not be there yet.")],
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Weights of eight bits: fp8 or int8; fp8-dynamic and int8-dynamic round what comes into layers, too.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --quantize: demonstrations on which its loss of quality is measured.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="With --quantize: how many of them, from the first.")] = 64,
    best: Annotated[bool, typer.Option("--best", help="From the run's best checkpoint (`checkpoint.best`).")] = False,
) -> None:
    """Write a model out of a checkpoint.

    With a model card; with --quantize, with weights of eight bits.
    """
    if (quantize is None) != (data is None):
        raise typer.BadParameter("give --quantize and --data together: what rounding costs is measured on given rows")
    os.environ["DS_ACCELERATOR"] = "cpu"  # read when DeepSpeed is imported: a GPU may be too small for all of a model
    if quantize is not None and data is not None:
        needs("quantize")
        _export_quantized(source, target, quantize, data, rows, best)
        return
    from mmrlhf_ray.pipelines.export.job import export as write

    found = write(source, target, best)
    print(f"{found.path}: the model after {found.step} steps, from {found.checkpoint}")


def _export_quantized(source: Path, target: Path, kind: str, data: Path, rows: int, best: bool) -> None:
    from mmrlhf_ray.pipelines.export.quantized import check, quantize

    check(target, kind, data)
    if (source / "config.json").is_file():
        print(_said(quantize(source, target, kind, data, rows)))
        return
    from mmrlhf_ray.pipelines.export.job import export as write

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as whole:
        found = write(source, Path(whole) / "model", best)
        print(f"the model after {found.step} steps, from {found.checkpoint}")
        print(_said(quantize(found.path, target, kind, data, rows)))


def _said(found: "Quantized") -> str:
    loss = found.loss
    return (
        f"{found.path}: {found.kind}, {found.before_bytes / 1e6:.1f} MB became {found.after_bytes / 1e6:.1f} MB\n"
        f"{loss.rows} rows, {loss.tokens} tokens: log-probability {loss.before.estimate:.4f} before, "
        f"{loss.after.estimate:.4f} after, difference {loss.difference.estimate:.2g} "
        f"[{loss.difference.low:.2g}, {loss.difference.high:.2g}] nats a token, at most {loss.largest:.2g}; "
        f"same most probable token at {loss.same_choice.estimate:.1%} of them"
    )


def push(
    model: Model,
    name: Annotated[str, typer.Argument(metavar="NAME", help="ORG/NAME on Hugging Face, or ms:ORG/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only its owners see.")] = False,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Run of `mmrlhf evaluate` whose figures go into the card; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it and list what would go; send nothing.")] = False,
) -> None:
    """Upload an exported model to a hub.

    Hugging Face or ModelScope, with its card.
    """
    from mmrlhf_ray.models.card import add_results
    from mmrlhf_ray.models.hub import model_directory
    from mmrlhf_ray.models.push import prepare
    from mmrlhf_ray.models.push import push as send
    from mmrlhf_ray.pipelines.card import evaluation_results

    found = [results for run in evaluation or () for results in evaluation_results(run)]
    adapter = (Path(model) / "adapter_config.json").is_file()
    upload = prepare(Path(model) if adapter else model_directory(model), name)
    if dry_run:
        sizes = upload.sizes
        for file, size in sizes.items():
            print(f"{size:>16,}  {file}")
        place = f"{upload.target.prefix}{upload.target.name}"
        print(f"{sum(sizes.values()):>16,}  bytes in {len(sizes)} files would go to {place}")
        return
    for results in found:
        add_results(upload.directory, results)
    print(send(upload, private))


Temperature = Annotated[float, typer.Option(min=0, help="0 = the most probable token each time.")]
Tokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of an answer.")]
Context = Annotated[
    int | None, typer.Option(min=2, help="Most tokens of prompt and answer; default: the model's own, at most 4096.")
]
System = Annotated[str, typer.Option(help="Message of the system, before all others.")]
Seed = Annotated[int, typer.Option(min=0)]
Allowed = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="TOKEN", help="Special token that answers may hold (sampling.allow_tokens)."),
]


def generate(
    model: Model,
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    image: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Shown first; may be repeated.")] = None,
    audio: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Heard next; may be repeated.")] = None,
    video: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Seen next; may be repeated.")] = None,
    system: System = "",
    temperature: Temperature = 1.0,
    max_tokens: Tokens = 512,
    context: Context = None,
    seed: Seed = 0,
    allow: Allowed = None,
) -> None:
    """Ask a model one question, with media.

    With the sampler, template and special tokens of the jobs.
    """
    from mmrlhf_ray.config import SamplingConfig
    from mmrlhf_ray.models.hub import model_directory
    from mmrlhf_ray.pipelines.talk.talk import read_clip, talking

    directory = model_directory(model)
    shown = [read_clip("image", path) for path in image or ()]
    shown += [read_clip("audio", path) for path in audio or ()]
    shown += [read_clip("video", path) for path in video or ()]
    sampling = SamplingConfig(temperature=temperature, max_response_tokens=max_tokens, allow_tokens=tuple(allow or ()))
    _note(f"starting vLLM with {directory}; a minute or more with a large model")
    with talking(directory, sampling, context, seed, system) as talk:
        for piece in talk.ask(question, shown):
            _say(piece)
    _say("\n")


def chat(
    model: Model,
    system: System = "",
    temperature: Temperature = 1.0,
    max_tokens: Tokens = 512,
    context: Context = None,
    seed: Seed = 0,
    allow: Allowed = None,
) -> None:
    """Talk with a model at the terminal.

    Several turns; /image PATH, /audio PATH and /video PATH show it something.
    """
    from mmrlhf_ray.config import SamplingConfig
    from mmrlhf_ray.models.hub import model_directory
    from mmrlhf_ray.pipelines.talk.chat import HELP
    from mmrlhf_ray.pipelines.talk.chat import chat as talk_on
    from mmrlhf_ray.pipelines.talk.talk import talking

    directory = model_directory(model)
    sampling = SamplingConfig(temperature=temperature, max_response_tokens=max_tokens, allow_tokens=tuple(allow or ()))
    _note(f"starting vLLM with {directory}; a minute or more with a large model")
    with talking(directory, sampling, context, seed, system) as talk:
        _note(HELP)
        talk_on(talk, _lines(), _say, _note)


def serve(
    model: Model,
    name: Annotated[str | None, typer.Option(help="What clients call it; default: the run's name.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="How often the model is loaded.")] = 1,
    gpus: Annotated[int | None, typer.Option(min=0, help="For each replica; default: 1 where there are any.")] = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="Most tokens of prompt and answer; default: all there is room for.")
    ] = None,
    feedback: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help=f"Feedback app that is told of responses and thumbs; its token: {_FEEDBACK_TOKEN}."
        ),
    ] = None,
) -> None:
    """Answer as OpenAI's API does, with vLLM.

    On Ray Serve, with a token; Ctrl-C ends it.
    """
    needs("serve")
    from mmrlhf_ray.models.hub import model_directory
    from mmrlhf_ray.pipelines.serve.app import NAME, ServeConfig, build, digest, llm_config
    from mmrlhf_ray.runtime.serving import answer_requests, check_address
    from mmrlhf_ray.runtime.session import ray_session

    if feedback is not None and not os.environ.get(_FEEDBACK_TOKEN):
        raise ConfigError(
            f"--feedback needs a token of the role client in {_FEEDBACK_TOKEN}: "
            "`mmrlhf feedback annotators add NAME --role client` prints one"
        )
    check_address(host, port)
    directory = model_directory(model).resolve()
    token = os.environ.get(SERVE_TOKEN) or secrets.token_urlsafe(32)
    config = ServeConfig(
        directory=str(directory),
        name=name or (directory.parent.name if directory.name == "model" else directory.name),
        token_sha256=digest(token),
        replicas=replicas,
        gpus=_gpus() if gpus is None else gpus,
        context=context,
        feedback_url=feedback,
        feedback_token=os.environ.get(_FEEDBACK_TOKEN, "") if feedback else "",
    )
    llm = llm_config(config)
    if SERVE_TOKEN not in os.environ:
        _note(f"api_key for clients, which is not shown again ({SERVE_TOKEN} sets another): {token}")
    _note(f"starting vLLM with {directory} as model {config.name!r}; a minute or more with a large model")
    with ray_session():
        answer_requests(build(config, llm), NAME, host, port, "/v1")


def _gpus() -> int:
    import torch

    return min(1, torch.cuda.device_count())


def _lines() -> Iterator[str]:
    """What is typed, or comes from a pipe, until it ends."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return


def _say(piece: str) -> None:
    print(piece, end="", flush=True)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
