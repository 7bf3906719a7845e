"""One distance between two folders by one tool, in a process of its own: what `benchmarks.evaluate` starts.

    python -m benchmarks.fid_tools TOOL FOLDER FOLDER --weights FILE

Each tool runs as its documentation says, on the CPU with all cores, and with the weights of the file in place of its
download. Prints the value, the seconds, and the peak of resident memory as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.machine import STATUS, resident_mib

WORKERS = 2
CPU = torch.device("cpu")


def pytorch_fid(a: Path, b: Path, weights: Path) -> float:
    """Its batch of 50; its own initialisation of the network, replaced by the weights at once, takes its time too."""
    from pytorch_fid import fid_score, inception

    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: _load(weights)):
        return float(fid_score.calculate_fid_given_paths([str(a), str(b)], 50, CPU, 2048, WORKERS))


def torch_fidelity(a: Path, b: Path, weights: Path) -> float:
    """Its batch of 64."""
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=str(a),
        input2=str(b),
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        samples_find_deep=True,
        feature_extractor_weights_path=str(weights),
    )
    return float(found["frechet_inception_distance"])


def clean_fid(a: Path, b: Path, weights: Path) -> float:
    """Its mode `clean`. Its TorchScript network is a download; the network of its mode `legacy_pytorch` stands in."""
    from cleanfid import fid, inception_pytorch

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with patch.object(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: _load(weights)):
                self.network = inception_pytorch.InceptionV3([3], resize_input=False, normalize_input=False).eval()

        def forward(self, images: Tensor) -> Tensor:
            features: Tensor = self.network((images - 128) / 128)[0]
            return features.flatten(1)

    found = fid.compute_fid(
        str(a),
        str(b),
        mode="clean",
        device=CPU,
        num_workers=WORKERS,
        batch_size=50,
        custom_feat_extractor=Network(),
        verbose=False,
        use_dataparallel=False,
    )
    return float(found)


def torchmetrics(a: Path, b: Path, weights: Path) -> float:
    """In the loop of a careful user, with a loader that decodes in processes of its own."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchvision.transforms.functional import pil_to_tensor

    class Pictures(Dataset[Tensor]):
        def __init__(self, folder: Path) -> None:
            self.paths = sorted(folder.glob("*.png"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, place: int) -> Tensor:
            picture: Tensor = pil_to_tensor(Image.open(self.paths[place]).convert("RGB"))
            return picture

    metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights), antialias=False)
    for folder, real in ((a, True), (b, False)):
        with torch.inference_mode():
            for images in DataLoader(Pictures(folder), batch_size=64, num_workers=WORKERS):
                metric.update(images, real=real)
    return float(metric.compute())


def limner(protocol: str) -> Callable[[Path, Path, Path], float]:
    """`limner fid A B --no-cache` under a protocol."""

    def distance(a: Path, b: Path, weights: Path) -> float:
        from contextlib import redirect_stdout
        from io import StringIO

        from limner.cli.app import app

        words = ["fid", str(a), str(b), "--weights", str(weights), "--protocol", protocol, "--no-cache", "--json"]
        with redirect_stdout(StringIO()) as out:
            app(words, standalone_mode=False)
        metrics: dict[str, float] = json.loads(out.getvalue())["metrics"]
        return next(iter(metrics.values()))

    return distance


TOOLS: dict[str, Callable[[Path, Path, Path], float]] = {
    "pytorch-fid": pytorch_fid,
    "torch-fidelity": torch_fidelity,
    "torchmetrics": torchmetrics,
    "clean-fid": clean_fid,
    **{f"limner {protocol}": limner(protocol) for protocol in ("pytorch-fid", "tf1", "clean")},
}
FOLLOWED = {"pytorch-fid": "pytorch-fid", "torch-fidelity": "tf1", "torchmetrics": "tf1", "clean-fid": "clean"}
"""The protocol that each of the others has."""


def _load(weights: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    return state


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run one tool."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fid_tools")
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # other tools' own
    begin = time.perf_counter()
    value = TOOLS[options.tool](options.a, options.b, options.weights)
    seconds = time.perf_counter() - begin
    # Without the processes that load pictures.
    return {"value": value, "seconds": seconds, "peak_mib": resident_mib("VmHWM") if STATUS.is_file() else math.nan}


if __name__ == "__main__":
    result = main()
    print(json.dumps(result))
