"""The token by which Ray's processes and their users know each other."""

import logging
import os
import secrets
import tempfile
from pathlib import Path

from mmrlhf_ray.errors import RunError


def token_path() -> Path:
    """Where Ray looks for the token of token authentication, unless RAY_AUTH_TOKEN holds it."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def read_token() -> str | None:
    """The token for Ray clusters, or None. It is a secret: show it to no one."""
    given = os.environ.get("RAY_AUTH_TOKEN")
    if given:
        return given
    return token_path().read_text().strip() if token_path().is_file() else None


def ensure_token() -> None:
    """A token of this user's, as `ray get-auth-token --generate` makes it, but readable by no one else."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or token_path().exists():
        return
    path = token_path()
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        os.replace(draft, path)
    except OSError as error:
        raise RunError(f"cannot write Ray's token to {path}: {error}; set RAY_AUTH_TOKEN_PATH to a file") from error


def use_token() -> None:
    """Token authentication for this process, where there is a token and RAY_AUTH_MODE does not say otherwise.

    Ray reads RAY_AUTH_MODE when it is imported, which is too early for us to set it; this is what it calls itself.
    """
    from ray._private.authentication import authentication_token_setup as setup

    setup.logger.setLevel(logging.ERROR)  # it warns that authentication is on
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
