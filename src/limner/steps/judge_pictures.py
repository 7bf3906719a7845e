"""How the evaluate step judges a model that makes pictures out of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from limner.data import judged_batches, showcase
from limner.distribution import frechet_name
from limner.errors import LimnerError
from limner.evaluation import evaluate_pictures
from limner.features import Extractor
from limner.inference import GenerativeModel, open_generator, truncate
from limner.metric_words import HEADLINES
from limner.packing import PackedDataset
from limner.picture_report import safeguards
from limner.pixels import bands, grid, to_uint8
from limner.ports import Ports
from limner.randomness import generator
from limner.reference import Reference, open_extractor, open_reference
from limner.report import Exhibits, Sheet
from limner.settings import EvaluateSettings
from limner.steps.bench import COLUMNS, RESULT, Judged, nearest_sheet
from limner.tasks import Pictures
from limner.trained import TrainedModel, Which, draw

ROWS = 8
PATHS, STOPS = 6, 10
"""Rows and pictures a row of the latent interpolation."""
CUTS = (None, 1.5, 1.0, 0.5, 0.2)
"""Where the latents of a row of the truncation are cut off; None: not at all."""
BANDS = 4
"""Rows of this model's pictures with the champion's below."""


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

    @property
    def layers(self) -> Sequence[str]:
        """Generated pictures alone."""
        return (RESULT,)

    def exhibits(self, judged: Judged, which: Which) -> Exhibits:
        """Real pictures, generated ones, walks between latents, cut-off latents, and the nearest training pictures."""
        method, product, train = self.trained.method, self.trained.product(which), self.packed.split("train")
        examples = showcase(train, count=COLUMNS * ROWS, device=next(product.parameters()).device)
        made = draw(method, product, [examples], seed=self.settings.seed)
        classes = self.packed.classes()
        # Columns are classes where there are as many and the product is asked for them.
        headings = classes if len(classes) == COLUMNS else ()
        asked = "labels" in method.product_inputs(examples, generator(0, device=examples.images.device))
        real, fake = grid(to_uint8(examples.images), columns=COLUMNS), grid(made, columns=COLUMNS)
        generated = Sheet(
            "Generated", "A grid of generated pictures.", fake, "None is chosen.", headings if asked else ()
        )
        sheets = [Sheet("Real", "A grid of training pictures.", real, headings=headings), generated]
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
            sheets.append(
                Sheet(
                    "Cut-off latents",
                    "Rows of pictures of the same latents, cut off ever nearer to 0.",
                    grid(_truncated(product, inputs), columns=COLUMNS),
                    "The same latents in each row, their values kept within the bound beside it: the nearer to 0, the "
                    "more typical the pictures, and the more alike. Applications call the bound truncation.",
                    headings if asked else (),
                    ["not cut" if cut is None else f"\N{PLUS-MINUS SIGN}{cut:g}" for cut in CUTS],
                )
            )
        sheets.append(nearest_sheet(judged, train, words=("pictures", "real pictures")))
        return Exhibits(sheets, HEADLINES, safeguards=list(safeguards(judged.evaluation.metrics)), specimen=generated)

    def beside(self, judged: Judged, which: Which, champion: Path) -> Sheet:
        """Pictures of the same seeds as the champion's; both drawn as applications draw them."""
        theirs, mine = open_generator(champion), self._as_exported(which)
        shapes = [(model.height, model.width, model.channels) for model in (mine, theirs)]
        if shapes[0] != shapes[1]:
            here, there = (f"{height}x{width}x{channels}" for height, width, channels in shapes)
            raise LimnerError(f"The champion's pictures are {there}, this model's {here}.")
        sheet = bands(
            [
                torch.from_numpy(model.generate(COLUMNS * BANDS, seed=self.settings.seed)).permute(0, 3, 1, 2)
                for model in (mine, theirs)
            ],
            columns=COLUMNS,
        )
        return Sheet(
            "The same seeds",
            "Bands of pictures: this model's, and below them the champion's.",
            sheet,
            "Above this model's pictures, below the champion's of the same seeds. None is chosen.",
        )

    def _as_exported(self, which: Which) -> GenerativeModel:
        """The moment as `limner.inference` opens it once it is exported."""
        method, product = self.trained.method, deepcopy(self.trained.product(which)).cpu()
        examples = next(self.batches())
        inputs = method.product_inputs(examples, generator(0, device=examples.images.device))
        shape = self.trained.shape
        return GenerativeModel(
            program=product,
            name="",
            task=method.task,
            digest="",
            classes=self.trained.classes,
            channels=shape.channels,
            height=shape.height,
            width=shape.width,
            inputs=tuple({"name": name, "shape": list(value.shape[1:])} for name, value in inputs.items()),
        )


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


@torch.no_grad()
def _truncated(product: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Results [len(CUTS) * COLUMNS, C, H, W]: the same latents, cut off further from row to row."""
    first = {name: value[:COLUMNS] for name, value in inputs.items()}
    latents = [first["latent"] if cut is None else truncate(first["latent"], cut) for cut in CUTS]
    return torch.cat([to_uint8(product(**{**first, "latent": latent})).cpu() for latent in latents])
