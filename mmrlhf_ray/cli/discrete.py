"""`mmrlhf discrete-export` and `mmrlhf discrete-serve`: a trained decision network in use."""

from pathlib import Path
from typing import Annotated

import typer

from mmrlhf_ray.errors import needs

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished `mmrlhf discrete` run.")]


def discrete_export(
    run: Run,
    output: Annotated[Path | None, typer.Option(help="File to write; default: module/model.onnx in RUN.")] = None,
) -> None:
    """Write a trained decision network as ONNX.

    Checks the file against torch.
    """
    needs("onnx")
    from mmrlhf_ray.discrete.export import export_onnx
    from mmrlhf_ray.discrete.files import MODULE_DIR, ONNX_FILE
    from mmrlhf_ray.discrete.module import silence_rllib_deprecations
    from mmrlhf_ray.discrete.saved import load_net

    silence_rllib_deprecations()
    cfg, net = load_net(run / MODULE_DIR)
    path = output or run / MODULE_DIR / ONNX_FILE
    parity = export_onnx(net, cfg, path)
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; largest difference from torch {parity.largest:.1e} "
        f"over {parity.rows} rows, same decision in {parity.same_decision:.0%}"
    )


def discrete_serve(
    run: Run,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
) -> None:
    """Answer HTTP requests with an exported network.

    On Ray Serve; Ctrl-C ends it.
    """
    needs("onnx")
    from mmrlhf_ray.discrete.serve import NAME, DiscreteServeConfig, build
    from mmrlhf_ray.runtime.serving import answer_requests, check_address
    from mmrlhf_ray.runtime.session import ray_session

    application = build(DiscreteServeConfig(run=str(run), replicas=replicas))
    check_address(host, port)
    with ray_session():
        answer_requests(application, NAME, host, port, "/decide")
