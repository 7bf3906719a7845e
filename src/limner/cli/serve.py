"""serve: an exported model behind HTTP."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from limner.cli.options import AsJson, ExportedModelArgument
from limner.errors import LimnerError

app = typer.Typer()


def count_cores() -> int:
    """Those that this process may use, where the system says so (macOS does not)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.command()
def serve(
    model: ExportedModelArgument,
    *,
    host: Annotated[str, typer.Option("--host", help="The address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0: any that is free.")] = 8000,
    max_batch: Annotated[int, typer.Option("--max-batch", metavar="N", min=1, help="Pictures computed at once.")] = 16,
    max_wait_ms: Annotated[
        float, typer.Option("--max-wait-ms", metavar="X", min=0, help="How long a picture waits for others.")
    ] = 2.0,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", metavar="N", min=1, help="Requests in hand; one more gets a 503.")
    ] = 512,
    max_count: Annotated[int, typer.Option("--max-count", metavar="N", min=1, help="Pictures of a request.")] = 64,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", metavar="N", min=1, help="Of all pictures of a request together.")
    ] = 2**24,
    max_array_pixels: Annotated[
        int, typer.Option("--max-array-pixels", metavar="N", min=1, help="Of those that are arrays, not PNG files.")
    ] = 2**20,
    max_bytes: Annotated[int, typer.Option("--max-bytes", metavar="N", min=1, help="Of a request.")] = 2**24,
    memory_mib: Annotated[
        int, typer.Option("--memory-mib", metavar="N", min=1, help="For all requests in hand, beside the model's.")
    ] = 1024,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Of the model.  [default: all cores but one]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve an exported model, as MLflow's server does, with batches, limits and figures.

    POST /invocations, GET /health, /metrics, /version, /openapi.json; GET / tells how to ask. SIGTERM ends it when the
    requests in flight are answered.

    \b
    Example:
      limner serve exports/digits-gan --port 8000
      curl localhost:8000/invocations -d '{"inputs": [], "params": {"count": 4, "output": "png"}}'
    """
    try:
        from limner.adapters.http_server import ModelServer, ServeOptions, listen
        from limner.adapters.http_server import serve as run
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "orjson", "prometheus_client", "starlette", "uvicorn"):
            raise
        raise LimnerError(f"{error.name} is not installed.", fix="pip install 'limner[serve]'") from error
    import torch

    from limner.cli.places import find_exported
    from limner.cli.results import print_json
    from limner.inference import open_model
    from limner.scoring import Limits

    limits = Limits(pictures=max_count, pixels=max_pixels, array_pixels=max_array_pixels, bytes=max_bytes)
    options = ServeOptions(limits, max_batch, max_wait_ms / 1000, max_waiting, memory=memory_mib * 2**20)
    with listen(host, port) as listener:
        opened = open_model(find_exported(model))
        # One core is for HTTP: a model on all of them waits for that one at every layer.
        torch.set_num_threads(threads or max(1, count_cores() - 1))
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        if as_json:
            print_json({"model": opened.name, "digest": opened.digest, "address": address})
        else:
            print(f"{opened.name} is served at {address}; end it with Ctrl-C.")
        sys.stdout.flush()
        run(ModelServer(opened, options), listener)
