"""`mmrlhf serve`: vLLM's OpenAI server by Ray Serve, behind a token, with a way back for what people do with answers.

The deployments are Ray Serve LLM's own (`ray.serve.llm`): one that holds vLLM, and an ingress, to which this adds the
token and `POST /v1/feedback`.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import PositiveInt
from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    OpenAIHTTPException,
    to_model_metadata,
)
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.responses import Response

from mmrlhf_ray.config.section import Section
from mmrlhf_ray.data.encoding.encode import load_encoder, processor_kwargs
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.models.headed import check_speaks
from mmrlhf_ray.pipelines.serve.report import Answers, Judgement, Reporter
from mmrlhf_ray.planning.settle import checkpoint_dtype
from mmrlhf_ray.planning.sizes import context_tokens

NAME = "model"
_AS_FITS = -1
"""vLLM's name for as many tokens as the model is made for and memory has room for."""
_REPLICA_CPUS = 0.5
_INGRESS_CPUS = 0.1
_REQUESTS = 1000
_NO_ADDRESS = "media-come-as-data-urls.invalid"
"""The only host that vLLM may fetch media from: none. It would fetch what a stranger names, from inside the network."""
_CPU_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # actors share the cores
    "TORCHDYNAMO_DISABLE": "1",
}


class ServeConfig(Section):
    """A model to serve."""

    directory: str
    """In Hugging Face format; every node sees it."""
    name: str
    """What clients call it."""
    token_sha256: str
    """Of the token that clients send."""
    replicas: PositiveInt = 1
    gpus: int = 0
    """For each replica; the model is spread over them. 0 = on the CPU."""
    context: PositiveInt | None = None
    """Most tokens of prompt and answer; None = as many as the model is made for and memory has room for."""
    feedback_url: str | None = None
    """Of the feedback app that responses and judgements go to; None = none are kept."""
    feedback_token: str = ""
    """Of its account with the role client."""
    engine_args: Mapping[str, Any] = {}
    """More of vLLM's arguments."""


def digest(token: str) -> str:
    """Of a token, as ServeConfig has it."""
    return hashlib.sha256(token.encode()).hexdigest()


class Ingress(OpenAiIngress):
    """Ray's ingress, which reports what was answered, and takes judgements of it."""

    def __init__(self, *args: Any, reporting: Mapping[str, str] | None = None, **kwargs: Any):
        """`reporting`: url, token and source of Reporter; None = nothing is reported."""
        super().__init__(*args, **kwargs)
        self._reporter = Reporter(**reporting) if reporting else None

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        """As OpenAI's chat completions."""
        response: Response = await super().chat(body, request)
        if self._reporter is None or response.status_code != 200:
            return response
        messages = (await request.json())["messages"]
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._reporter.streamed(messages, response.body_iterator)  # type: ignore[arg-type]
        else:
            answers = Answers()
            answers.add(json.loads(bytes(response.body)))
            self._reporter.answered(messages, answers)
        return response

    async def feedback(self, judgement: Judgement) -> Response:
        """What somebody did with a response; the feedback app's own answer comes back."""
        if self._reporter is None:
            raise OpenAIHTTPException(404, "no feedback is kept; start the server with --feedback URL", "NotFound")
        status, content = await self._reporter.judged(judgement)
        return JSONResponse(content, status)


def build(config: ServeConfig, llm: LLMConfig) -> serve.Application:
    """The application for `serve.run`, of llm_config(). Ray must be up."""
    reporting = None
    if config.feedback_url:
        reporting = {"url": config.feedback_url, "token": config.feedback_token, "source": config.name}
    ingress = make_fastapi_ingress(Ingress, endpoint_map=_endpoints(config.token_sha256))
    options = serve.deployment(
        num_replicas=1, max_ongoing_requests=_REQUESTS, ray_actor_options={"num_cpus": _INGRESS_CPUS}
    )
    return options(ingress).bind(
        llm_deployments={config.name: build_llm_deployment(llm, deployment_cls=LLMServer)},
        model_cards={config.name: to_model_metadata(config.name, llm)},
        reporting=reporting,
    )


def llm_config(config: ServeConfig) -> LLMConfig:
    """The model as Ray Serve LLM wants it. Raises ModelError for a model that does not answer or cannot be read,
    ConfigError for a context that is too long for it."""
    directory = Path(config.directory)
    check_speaks(directory)
    encoder = load_encoder(directory)
    known = context_tokens(directory)
    if config.context is not None and known is not None and config.context > known:
        raise ConfigError(f"--context {config.context}: the model is made for {known} tokens; lower it")
    own = {
        "dtype": checkpoint_dtype(directory) if config.gpus else "float32",
        "max_model_len": config.context or _AS_FITS,
        "tensor_parallel_size": max(1, config.gpus),
        "enforce_eager": not config.gpus,
        "mm_processor_kwargs": processor_kwargs(encoder),
        "allowed_media_domains": [_NO_ADDRESS],
    }
    bundle = {"GPU": 1.0, "CPU": _REPLICA_CPUS} if config.gpus else {"CPU": _REPLICA_CPUS}
    return LLMConfig(
        model_loading_config={"model_id": config.name, "model_source": str(directory)},
        engine_kwargs={**own, **config.engine_args},
        accelerator_config={"kind": "gpu" if config.gpus else "cpu"},
        placement_group_config={"bundles": [bundle] * max(1, config.gpus)},
        deployment_config={"num_replicas": config.replicas, "ray_actor_options": {"num_cpus": _REPLICA_CPUS}},
        runtime_env={"env_vars": {} if config.gpus else _CPU_ENV},
        log_engine_metrics=False,
    )


def _endpoints(token_sha256: str) -> dict[str, Callable[[FastAPI], Callable[..., Any]]]:
    """Method of Ingress → where it answers, to those who send the token."""

    def authorised(authorization: str = Header("")) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(digest(token.strip()), token_sha256):
            said = "send `Authorization: Bearer <token>`, which OpenAI's clients call api_key"
            raise OpenAIHTTPException(401, said, "Unauthorized")

    only = [Depends(authorised)]
    return {
        "models": lambda app: app.get("/v1/models", dependencies=only),
        "model_data": lambda app: app.get("/v1/models/{model:path}", dependencies=only),
        "completions": lambda app: app.post("/v1/completions", dependencies=only),
        "chat": lambda app: app.post("/v1/chat/completions", dependencies=only),
        "feedback": lambda app: app.post("/v1/feedback", dependencies=only),
    }
