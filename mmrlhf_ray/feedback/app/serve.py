"""The app on a port of this machine, until Ctrl-C or SIGTERM."""

import signal
import socket
import sys
from datetime import UTC, datetime

import uvicorn
from sqlalchemy import select

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.app.factory import create_app
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.tables import COMMAND, Annotator

FIRST_ADMIN = "admin"


def serve(config: FeedbackConfig, token: str | None = None) -> None:
    """Serve until told to end; requests that are being answered are finished first.

    Prints the address, one that logs in at once if a `token` is given, and the token of a first administrator where the
    database has no accounts. Raises ConfigError for a port that is taken, and as open_database does.
    """
    listener = _listen(config)
    # uvicorn ends cleanly on SIGTERM, then raises it again for the handler that was there before.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        app = create_app(config)
        settings = uvicorn.Config(
            app,
            log_level=config.log_level,
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
            server_header=False,
            # Else anybody could claim another address and get around the limit on logins.
            proxy_headers=False,
            timeout_graceful_shutdown=10,
        )
        _say(config, listener, _first_token(app.state.feedback.database), token)
        uvicorn.Server(settings).run(sockets=[listener])
    except KeyboardInterrupt:
        return  # likewise
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()


def _listen(config: FeedbackConfig) -> socket.socket:
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # start again at once after a crash
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise ConfigError(
            f"host, port: cannot listen on {config.host}:{config.port}: {error.strerror or error}; choose another "
            "port, or 0 for any that is free"
        ) from error
    return listener


def _first_token(database: Database) -> str | None:
    """The token of the first administrator; none where there are accounts."""
    with database.write() as session:
        if session.scalar(select(Annotator.id).limit(1)) is not None:
            return None
        return add_annotator(session, FIRST_ADMIN, "admin", COMMAND, datetime.now(UTC))[1]


def _say(config: FeedbackConfig, listener: socket.socket, first: str | None, token: str | None) -> None:
    scheme = "http" if config.tls_cert is None else "https"
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"{scheme}://{host}:{listener.getsockname()[1]}"
    print(f"feedback: {address}", flush=True)
    if first is not None:
        print(f"feedback: log in as {FIRST_ADMIN!r} with this token, which is not shown again: {first}", flush=True)
    if token is not None:  # in the fragment, which browsers keep to themselves
        print(f"feedback: open {address}/login#token={token}", flush=True)
    if not config.loopback and config.tls_cert is None:
        print(
            f"warning: {config.host} can be reached from other machines, and without TLS everybody on the way reads "
            "tokens and votes; set tls_cert and tls_key, or put a proxy with TLS in front. Browsers can log in over "
            "https only.",
            file=sys.stderr,
            flush=True,
        )
