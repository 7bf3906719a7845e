"""What a careful user writes to serve a generator: Flask around the eager network, one request at a time or threads.

python -m benchmarks.plain_server MODEL PORT --threads 1 --threaded
gunicorn -w 2 -b 127.0.0.1:PORT 'benchmarks.plain_server:open_app("MODEL", threads=1)'
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from flask import Flask, Response, jsonify, request
from PIL import Image
from torch import nn

from limner.trained import open_trained


def make_app(network: nn.Module, *, latent: int, classes: int) -> Flask:
    """POST /invocations, as far as the benchmark asks for it."""
    app = Flask("plain")

    @app.get("/health")
    def health() -> str:
        return "ready"

    @app.post("/invocations")
    def invocations() -> Response:
        params = request.get_json()["params"]
        count, random = params["count"], torch.Generator().manual_seed(params["seed"])
        with torch.inference_mode():
            inputs = {"latent": torch.randn(count, latent, generator=random)}
            if classes:
                inputs["labels"] = torch.full((count,), params["label"])
            images = network(**inputs)
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        if params["output"] == "array":
            return jsonify({"predictions": pixels.tolist()})
        files = []
        for picture in pixels:
            buffer = io.BytesIO()
            Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(buffer, "PNG")
            files.append(base64.b64encode(buffer.getvalue()).decode())
        return jsonify({"predictions": files})

    return app


def open_app(model: str, *, threads: int) -> Flask:
    """The application around a trained model."""
    torch.set_num_threads(threads)
    trained = open_trained(Path(model), device=torch.device("cpu"))
    latent = json.loads((trained.folder / "config.json").read_text(encoding="utf-8"))["method"]["generator"]["latent"]
    return make_app(trained.product("best").eval(), latent=latent, classes=len(trained.classes))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_server")
    parser.add_argument("model")
    parser.add_argument("port", type=int)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--threaded", action="store_true", help="a thread for each request")
    options = parser.parse_args(arguments)
    app = open_app(options.model, threads=options.threads)
    app.run("127.0.0.1", options.port, threaded=options.threaded)


if __name__ == "__main__":
    main()
