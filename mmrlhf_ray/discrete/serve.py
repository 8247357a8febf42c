"""A trained run as an HTTP endpoint on Ray Serve.

    mmrlhf discrete-export runs/discrete-dqn
    serve run mmrlhf_ray.discrete.serve:build run=runs/discrete-dqn
    curl -F image=@digit.png -F tone=@digit.wav http://127.0.0.1:8000/decide

What is computed is the exported ONNX file; neither torch nor RLlib takes part. Ray's proxy listens, on loopback unless
told otherwise. The endpoint knows no users: whoever reaches it may ask it.
"""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import PositiveInt
from ray import serve
from starlette.datastructures import UploadFile

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.load import load_config
from mmrlhf_ray.config.section import Section
from mmrlhf_ray.discrete.files import CONFIG_FILE, MODULE_DIR, ONNX_FILE
from mmrlhf_ray.discrete.onnx_file import input_names, open_session, session_actions, session_scores
from mmrlhf_ray.discrete.request import BadRequest, answer, chosen_task, observe
from mmrlhf_ray.errors import ConfigError

NAME = "discrete"
_REQUESTS = 32


class DiscreteServeConfig(Section):
    """The run to serve, and its number of replicas."""

    run: str
    """Directory of a finished `mmrlhf discrete` run, exported by `mmrlhf discrete-export`. Every node sees it."""
    replicas: PositiveInt = 1
    body_mb: PositiveInt = 64
    """Largest request."""


def build(config: DiscreteServeConfig) -> serve.Application:
    """The application for `serve run` and `serve.run`. Raises ConfigError where there is no export."""
    directory = Path(config.run).resolve() / MODULE_DIR
    if not (directory / ONNX_FILE).is_file():
        raise ConfigError(
            f"run: {directory / ONNX_FILE} is not there; make it with `mmrlhf discrete-export {config.run}`"
        )
    load_config(directory / CONFIG_FILE, (), DiscreteConfig)

    def app() -> FastAPI:
        """Called where a replica runs: an open session cannot travel there."""
        return create_app(directory, config.body_mb * 2**20)

    options = serve.deployment(name=NAME, num_replicas=config.replicas, max_ongoing_requests=_REQUESTS)
    return options(serve.ingress(app)()).bind()


def create_app(directory: Path, body_bytes: int) -> FastAPI:
    """The endpoint of one exported module: `POST /decide` (a form), `GET /` (what to send), `GET /health`."""
    cfg = load_config(directory / CONFIG_FILE, (), DiscreteConfig)
    session = open_session(directory / ONNX_FILE)
    given = [entry.name for entry in session.get_inputs()]
    if given != input_names(cfg):
        raise ConfigError(
            f"{directory}: {ONNX_FILE} takes {given}, but {CONFIG_FILE} says {input_names(cfg)}; export the run again"
        )
    scores = session_scores(session)
    actions = session_actions(session)
    app = FastAPI(title=f"mmrlhf discrete: {cfg.name}")

    @app.get("/")
    def about() -> dict[str, Any]:
        sent = {name: modality.kind for name, modality in cfg.observation.modalities.items()}
        return {"name": cfg.name, "modalities": sent, "tasks": actions}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/decide")
    async def decide(request: Request) -> JSONResponse:
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > body_bytes:
            return JSONResponse({"error": f"expected a body of at most {body_bytes} bytes that says its length"}, 413)
        fields = await _fields(request)
        try:
            return JSONResponse(await run_in_threadpool(decided, fields))
        except BadRequest as problem:
            return JSONResponse({"error": str(problem)}, 400)

    def decided(fields: dict[str, bytes | str]) -> dict[str, Any]:
        named, final = fields.pop("task", None), fields.pop("final", "false") == "true"
        task = chosen_task(cfg, named if isinstance(named, str) else None)
        observation = observe(cfg, task, fields)
        return answer(cfg, task, observation, scores(observation)[0], actions[task], final)

    return app


async def _fields(request: Request) -> dict[str, bytes | str]:
    """The form's fields: bytes of files, text of others."""
    fields: dict[str, bytes | str] = {}
    async with request.form() as form:
        for name, value in form.items():
            fields[name] = await value.read() if isinstance(value, UploadFile) else value
    return fields
