"""The rows of `benchmarks.style`: loops that train the same thing, and how each differs from Limner's own."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

import limner.data
from benchmarks.gated_training import GatedTraining
from benchmarks.plain_loop import endless, switches
from benchmarks.style_loops import LOOPS, open_sides
from benchmarks.style_recipe import StyleRecipe, as_published, build_style
from benchmarks.training_rows import Change, Contestant, Plain, Row, Subject, fakes_twice, foreach_adam
from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.methods import TrainingMethod
from limner.ports import Ports
from limner.steps.train import assemble

PORTS = Ports(UntrackedTracker(), UntrackedRegistry(), progress=lambda *_: None)


class PlainStyle(Plain):
    """A plain loop of translation as a contestant."""

    def __init__(self, subject: Subject, *, tuned: bool = False, apart: bool = False) -> None:
        recipe, device = subject.recipe, subject.device
        networks = plain_networks(subject, tuned=tuned)
        loader = open_sides(
            subject.folder / "png", recipe, workers=subject.workers, tuned=tuned, pin=device.type == "cuda"
        )
        self._loop = LOOPS[recipe.method](
            networks,
            recipe,
            endless(loader),
            tuned=tuned,
            autocast=subject.dtype if tuned else torch.float32,
            apart=apart,
        )
        self._device, self._switches = device, switches if tuned else nullcontext


def plain_networks(subject: Subject, *, tuned: bool) -> nn.ModuleDict:
    """The method's networks for a plain loop: in NCHW, or channels_last for the tuned one."""
    networks = build_style(subject.recipe.settings(), subject.data, subject.device, channels_last=tuned).networks
    as_published(networks)
    return networks


def limner_row(
    name: str,
    kind: str = "ablation",
    *,
    change: Change = lambda method: None,
    precision: str = "",
    channels_last: bool = True,
    resident: bool = True,
) -> Row:
    """Limner's training loop, assembled as `limner train` does it, with something about it changed."""

    def start(subject: Subject, stack: ExitStack) -> Contestant:
        settings = subject.recipe.settings(precision or subject.precision)
        method = build_style(settings, subject.data, subject.device, channels_last=channels_last)
        change(method)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=subject.folder)))
        with nullcontext() if resident else patch.object(limner.data, "RESIDENT_SHARE", 0.0):
            run = assemble(settings, method, subject.data, place=place, ports=PORTS)
        return stack.enter_context(GatedTraining(run))

    return Row(name, kind, start)


def judged_apart(method: TrainingMethod) -> None:
    """In its turn a discriminator looks at real pictures and at translated ones in a pass each."""
    for player, network in method.networks.items():
        if player.startswith("discriminator"):
            _halve_passes_with_gradients(network)


def _halve_passes_with_gradients(discriminator: nn.Module) -> None:
    whole = discriminator.forward

    def forward(images: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is None
        if images.requires_grad or not torch.is_grad_enabled():  # the generator's turn, or somebody who only looks
            return whole(images)
        return torch.cat([whole(half) for half in images.chunk(2)])

    discriminator.forward = forward  # type: ignore[method-assign]


def style_rows(recipe: StyleRecipe, dtype: torch.dtype) -> list[Row]:
    """All of them; `dtype` is what `limner` computes in."""
    other_type = [limner_row("limner, float32", precision="fp32")] if dtype is not torch.float32 else []
    once = recipe.method != "cyclegan"  # it has no turn of a discriminator between
    return [
        Row("plain", "baseline", lambda subject, _: PlainStyle(subject)),
        Row("plain, passes apart", "baseline", lambda subject, _: PlainStyle(subject, apart=True)),
        Row("plain, tuned", "baseline", lambda subject, _: PlainStyle(subject, tuned=True)),
        limner_row("limner", "limner"),
        *other_type,
        limner_row("limner, NCHW", channels_last=False),
        *([limner_row("limner, translated twice", change=fakes_twice)] if once else []),
        limner_row("limner, judged apart", change=judged_apart),
        limner_row("limner, Adam not fused", change=foreach_adam),
        limner_row("limner, data not resident", resident=False),
    ]
