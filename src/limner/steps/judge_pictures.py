"""How the evaluate step judges a model that makes pictures out of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limner.data import judged_batches, showcase
from limner.distribution import frechet_name
from limner.evaluation import evaluate_pictures
from limner.features import Extractor
from limner.metric_words import HEADLINES
from limner.packing import PackedDataset
from limner.pixels import grid, to_uint8
from limner.ports import Ports
from limner.randomness import generator
from limner.reference import Reference, open_extractor, open_reference
from limner.report import Exhibits, Sheet
from limner.settings import EvaluateSettings
from limner.steps.bench import COLUMNS, Judged, nearest_sheet
from limner.tasks import Pictures
from limner.trained import TrainedModel, Which, draw

ROWS = 8
PATHS, STOPS = 6, 10
"""Rows and pictures a row of the latent interpolation."""


@dataclass(frozen=True)
class PictureBench:
    """Generated pictures are held against the dataset's own."""

    settings: EvaluateSettings
    trained: TrainedModel
    packed: PackedDataset
    batches: Callable[[], Iterator[Pictures]]
    reference: Reference
    extractor: Extractor

    @property
    def first_metric(self) -> str:
        """The Frechet distance."""
        return frechet_name(self.extractor)

    def judge(self, which: Which) -> Judged:
        """Draw the moment's pictures and judge them."""
        method = self.trained.method
        images = draw(method, self.trained.product(which), self.batches(), seed=self.settings.seed)
        first = next(self.batches())
        # Labels count only where the product is asked for them.
        asked = "labels" in method.product_inputs(first, generator(0, device=first.images.device))
        labels = torch.cat([b.labels for b in self.batches() if b.labels is not None]) if asked else None
        found = evaluate_pictures(
            images, labels, reference=self.reference, extractor=self.extractor, settings=self.settings
        )
        return Judged(images, found)

    def exhibits(self, judged: Judged, which: Which) -> Exhibits:
        """Real pictures, generated ones, walks between latents, and the nearest training pictures."""
        method, product, train = self.trained.method, self.trained.product(which), self.packed.split("train")
        examples = showcase(train, count=COLUMNS * ROWS, device=next(product.parameters()).device)
        made = draw(method, product, [examples], seed=self.settings.seed)
        classes = self.packed.classes()
        # Columns are classes where there are as many and the product is asked for them.
        headings = classes if len(classes) == COLUMNS else ()
        asked = "labels" in method.product_inputs(examples, generator(0, device=examples.images.device))
        real, fake = grid(to_uint8(examples.images), columns=COLUMNS), grid(made, columns=COLUMNS)
        sheets = [
            Sheet("Real", "A grid of training pictures.", real, headings=headings),
            Sheet("Generated", "A grid of generated pictures.", fake, "None is chosen.", headings if asked else ()),
        ]
        inputs = method.product_inputs(
            examples, generator(self.settings.seed, "interpolate", device=examples.images.device)
        )
        if "latent" in inputs:
            sheets.append(
                Sheet(
                    "From one latent to another",
                    "Rows of generated pictures that change step by step.",
                    grid(_interpolate(product, inputs), columns=STOPS),
                    "Each row walks between two latents; jumps would say that pictures were learnt by heart.",
                )
            )
        sheets.append(nearest_sheet(judged, train, words=("pictures", "real pictures")))
        return Exhibits(sheets, HEADLINES)


def open_picture_bench(
    settings: EvaluateSettings, packed: PackedDataset, trained: TrainedModel, *, ports: Ports
) -> PictureBench:
    """The bench of the task `pictures`."""
    device = next(trained.method.networks.parameters()).device
    extractor = open_extractor(settings, packed, device=device, ports=ports)
    return PictureBench(
        settings=settings,
        trained=trained,
        packed=packed,
        batches=lambda: judged_batches(packed, count=settings.samples, seed=settings.seed, device=device),
        reference=open_reference(packed, extractor, cache=ports.cache),
        extractor=extractor,
    )


@torch.no_grad()
def _interpolate(product: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Results [PATHS * STOPS, C, H, W] along great circles between latents, where normal noise has its mass."""
    start, end = inputs["latent"][:PATHS], inputs["latent"][PATHS : 2 * PATHS]
    angle = torch.linspace(0, torch.pi / 2, STOPS, device=start.device)[None, :, None]
    path = start[:, None] * angle.cos() + end[:, None] * angle.sin()
    others = {name: value[:PATHS].repeat_interleave(STOPS, 0) for name, value in inputs.items() if name != "latent"}
    return to_uint8(product(latent=path.flatten(0, 1), **others)).cpu()
