"""An application of Ray Serve that a command keeps up."""

import logging
import socket
import time

from ray import serve

from mmrlhf_ray.errors import ConfigError, RunError, RunFailed, first_line

_LOOK_S = 5.0


def check_address(host: str, port: int) -> None:
    """Raise ConfigError where nothing can listen, such as on a port that is taken."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise ConfigError(f"{host}:{port}: {error.strerror}; choose another --port or --host") from error


def answer_requests(application: serve.Application, name: str, host: str, port: int, path: str) -> None:
    """Deploy on the Ray that is up, and answer until Ctrl-C or SIGTERM; then the application is taken away again.

    Prints the address with `path`. Raises RunFailed where it does not start, RunError where somebody else took it away.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it says what it does, deployment by deployment
    serve.start(http_options={"host": host, "port": port})
    try:
        try:
            serve.run(application, name=name, route_prefix="/")
        except RuntimeError as error:
            raise RunFailed(f"Ray Serve could not start it: {first_line(error)}") from error
        print(f"http://{host}:{port}{path} answers", flush=True)
        while name in serve.status().applications:  # Ray Serve itself replaces a replica that dies
            time.sleep(_LOOK_S)
        raise RunError(f"somebody took the application {name!r} away from Ray Serve; start it again")
    except KeyboardInterrupt:
        return  # it was told to
    finally:
        serve.delete(name)
