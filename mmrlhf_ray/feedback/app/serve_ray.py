"""The app on Ray Serve, alongside a training cluster.

    serve run mmrlhf_ray.feedback.app.serve_ray:build data_dir=/shared/feedback

A team's cluster takes `database=postgresql://…`, and a `data_dir` that every node sees. Make the first account with
`mmrlhf feedback annotators add NAME --role admin --set database=…`. Ray's proxy listens, not the app: it is bound to
loopback unless told otherwise, and TLS is a matter of what stands before it. `host`, `port` and `tls_*` mean nothing.
"""

from fastapi import FastAPI
from pydantic import PositiveInt
from ray import serve

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.app import create_app

NAME = "feedback"
_REQUESTS = 200


class RayServeConfig(FeedbackConfig):
    """The app, and how often it runs."""

    replicas: PositiveInt = 1
    """More than one needs PostgreSQL: SQLite is for the processes of one machine."""


def build(config: RayServeConfig) -> serve.Application:
    """The application for `serve run` and `serve.run`. Raises ConfigError."""
    if config.replicas > 1 and config.database_url.startswith("sqlite"):
        raise ConfigError(
            f"replicas: {config.replicas} replicas cannot share {config.database_url}; set database to a PostgreSQL, "
            "or replicas to 1"
        )

    def app() -> FastAPI:
        """Called where a replica runs: an open database cannot travel there."""
        return create_app(config)

    options = serve.deployment(name=NAME, num_replicas=config.replicas, max_ongoing_requests=_REQUESTS)
    return options(serve.ingress(app)()).bind()
