"""A trained model on disk: `config.json` (what was built) and the averaged product's weights, last and best."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limner.errors import LimnerError
from limner.methods import TrainingMethod, load_method
from limner.pixels import to_uint8
from limner.randomness import generator
from limner.settings import MethodSettings
from limner.tasks import PictureShape

Which = Literal["best", "last"]
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class TrainedModel:
    """A method rebuilt from its folder; only the product's weights are trained, the rest is as initialised."""

    folder: Path
    method: TrainingMethod
    shape: PictureShape
    classes: tuple[str, ...]

    def product(self, which: Which) -> nn.Module:
        """The product with the weights of the last or the best moment, in evaluation mode.

        Raises LimnerError where there are none, or none that fit.
        """
        product, path = self.method.product(), self.weights(which)
        try:
            product.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise LimnerError(
                f"{path} does not hold the weights of this model.",
                why=" ".join(str(error).split())[:300],
                fix="Train it again: limner train MODEL",
            ) from error
        return product.eval().requires_grad_(False)

    def weights(self, which: Which) -> Path:
        """The file of the weights. Raises LimnerError where there is none."""
        path = self.folder / which / WEIGHTS
        if not path.is_file():
            raise LimnerError(f"There is no trained model at {path}.", fix="Train it: limner train MODEL")
        return path


def save_config(folder: Path, params: MethodSettings, shape: PictureShape, classes: tuple[str, ...]) -> None:
    """Write what is needed to build the method again."""
    document = {"method": params.model_dump(mode="json"), "shape": asdict(shape), "classes": list(classes)}
    (folder / CONFIG).write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def save_product(folder: Path, product: nn.Module) -> None:
    """Write the product's weights."""
    save_weights(folder, product.state_dict())


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of a product that have been set aside."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS)


def open_trained(folder: Path, *, device: torch.device) -> TrainedModel:
    """Build the method that a folder describes. Raises LimnerError where it is no trained model."""
    try:
        document: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        loaded = load_method(document["method"]["name"])
        params = loaded.params.model_validate(document["method"])
        shape = PictureShape(**document["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimnerError(
            f"{folder} is not a trained model.", why=str(error), fix="Train it: limner train MODEL"
        ) from error
    method = loaded.build(params, shape)
    method.networks.to(device)
    return TrainedModel(folder, method, shape, tuple(document["classes"]))


@torch.no_grad()
def draw(method: TrainingMethod, product: nn.Module, batches: Iterable[Any], *, seed: int) -> Tensor:
    """Results of the product for each batch, uint8 [N, C, H, W] on the CPU: as they would be saved and judged."""
    return torch.cat([draw_batch(method, product, batch, number, seed=seed) for number, batch in enumerate(batches)])


@torch.no_grad()
def draw_batch(method: TrainingMethod, product: nn.Module, batch: Any, number: int, *, seed: int) -> Tensor:
    """The part of `draw` for the batch of this number."""
    rng = generator(seed, "draw", number, device=next(product.parameters()).device)
    return to_uint8(product(**method.product_inputs(batch, rng))).cpu()
