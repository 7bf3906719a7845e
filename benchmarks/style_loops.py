"""The baselines of `benchmarks.style`: translation as a careful user writes it in plain PyTorch from the papers.

Nothing of Limner is in the loops but the networks. No straw man: what `benchmarks.plain_loop` does not do twice is not
done twice here either. Pictures are translated once, for both players; real and translated pictures go through the
discriminator in one pass, and so do, in CycleGAN, those to be changed and those to be left alone; features of sources
have no graph, and where the translation itself makes them (CUT) they are taken from there; patches are drawn on the
device. `apart` undoes that: the passes are as many as in the papers' published code.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
from torch.utils.data import DataLoader, Dataset

from benchmarks.machine import describe_machine
from benchmarks.plain_loop import PlainLoop
from benchmarks.style_recipe import StyleRecipe
from limner.networks.patch_projection import SHORTEST

Sides = tuple[Tensor, Tensor]


class Chance:
    """What a loop draws at random."""

    def coin(self) -> bool:
        """Whether the sources of a step are mirrored."""
        return float(torch.rand(())) < 0.5

    def places(self, there: int, count: int, device: torch.device) -> Tensor:
        """`count` different places of `there`, in a random order."""
        return torch.randperm(there, device=device)[:count]


class PlainTranslation(PlainLoop):
    """Steps of plain PyTorch: eager and single precision, unless `autocast` names a type."""

    def __init__(  # noqa: PLR0913 - each is a way in which rows differ
        self,
        networks: nn.ModuleDict,
        recipe: StyleRecipe,
        batches: Iterator[Sides],
        *,
        tuned: bool = False,
        autocast: torch.dtype = torch.float32,
        apart: bool = False,
        chance: Chance | None = None,
    ) -> None:
        """`networks` are Limner's own of the method, on their device; `tuned`: see `PlainLoop`."""
        super().__init__(networks, recipe, batches, tuned=tuned, autocast=autocast)
        self._apart, self._chance = apart, chance or Chance()
        self.losses: dict[str, Tensor] = {}
        """Of the last step, by player; still on the device."""

    def step(self) -> None:
        """One move of each player."""
        layout = torch.channels_last if self._tuned else torch.preserve_format
        source, target = (
            images.to(self._device, non_blocking=True, memory_format=layout) for images in next(self._batches)
        )
        self._move(source, target)
        self.images_seen += len(source)
        self._update_average(len(source))

    def _move(self, source: Tensor, target: Tensor) -> None:
        raise NotImplementedError

    def _freeze(self) -> None:
        self.discriminator.requires_grad_(False)

    def _descend(self, player: str, loss: Tensor) -> None:
        optimizer = self.generator_optimizer if player == "generator" else self.discriminator_optimizer
        self.losses[player] = loss.detach()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def _judge(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Sequence[Tensor]:
        """Logits of real pictures and of translated ones."""
        discriminator.requires_grad_(True)
        with self._precision():
            if self._apart:
                return discriminator(real), discriminator(fake.detach())
            logits: Tensor = discriminator(torch.cat([real, fake.detach()]))
            return logits.chunk(2)

    def _pass(self, network: nn.Module, *images: Tensor) -> Sequence[Tensor]:
        """Each [N, ...] through the network, at once or one after the other."""
        if self._apart:
            return [network(each) for each in images]
        result: Tensor = network(torch.cat(images))
        return result.chunk(len(images))


class PlainContrastive(PlainTranslation):
    """CUT and FastCUT, arXiv:2007.15651."""

    def __init__(self, networks: nn.ModuleDict, recipe: StyleRecipe, *arguments: object, **options: object) -> None:
        super().__init__(networks, recipe, *arguments, **options)  # type: ignore[arg-type]
        self._heads = networks["projection"].heads
        self._layers = self.generator.default_layers
        self.generator_optimizer.add_param_group({"params": list(networks["projection"].parameters())})

    def _move(self, source: Tensor, target: Tensor) -> None:
        recipe, keys = self._recipe, None
        mirrored = recipe.fast and self._chance.coin()
        shown = source.flip(3) if mirrored else source
        given = shown if recipe.fast else torch.cat([shown, target])
        with self._precision():
            if mirrored or self._apart:
                results = self.generator(given)
            else:
                results, keys = self.generator.forward_with_features(given, self._layers)
        fake = results[: len(source)]
        real_logits, fake_logits = self._judge(self.discriminator, target, fake)
        loss = 0.5 * (real_logits - 1).square().mean() + 0.5 * fake_logits.square().mean()
        self._descend("discriminator", loss)
        self._freeze()
        with self._precision():
            adversarial = (self.discriminator(fake) - 1).square().mean()
            queries = self.generator.features(results, self._layers)
            if mirrored:
                queries = [query.flip(3) for query in queries]
            if keys is None:
                # Those of the pictures as they were: no other pass has made them where they were mirrored.
                plain = source if recipe.fast else given
                with torch.set_grad_enabled(self._apart):
                    keys = self.generator.features(plain, self._layers)
            contrast = [self._contrast(*layer) for layer in zip(self._heads, queries, keys, strict=True)]
        self._descend("generator", adversarial + recipe.nce * torch.stack(contrast).mean())

    def _contrast(self, head: nn.Module, query: Tensor, key: Tensor) -> Tensor:
        """Equation 3: which patch of the source a patch of the result is."""
        there = query.shape[2] * query.shape[3]
        places = self._chance.places(there, min(there, self._recipe.patches), query.device)
        query = F.normalize(head(_patches(query, places)), dim=2, eps=SHORTEST)
        with torch.set_grad_enabled(self._apart):
            key = F.normalize(head(_patches(key.detach(), places)), dim=2, eps=SHORTEST).detach()
        logits = query @ key.transpose(1, 2) / self._recipe.temperature
        truth = torch.arange(len(places), device=query.device).repeat(len(query))
        return F.cross_entropy(logits.flatten(0, 1), truth)


def _patches(features: Tensor, places: Tensor) -> Tensor:
    """Features [N, C, H, W] at some places, [N, P, C]."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)[:, places]


class PlainCycle(PlainTranslation):
    """CycleGAN, arXiv:1703.10593."""

    def __init__(self, networks: nn.ModuleDict, recipe: StyleRecipe, *arguments: object, **options: object) -> None:
        judges = nn.ModuleList([networks["discriminator"], networks["discriminator_back"]])
        both = nn.ModuleDict({"generator": networks["generator"], "discriminator": judges})
        super().__init__(both, recipe, *arguments, **options)  # type: ignore[arg-type]
        self._pools = Pool(recipe.pool), Pool(recipe.pool)

    def _move(self, source: Tensor, target: Tensor) -> None:
        recipe, there, back = self._recipe, self.generator.there, self.generator.return_
        judge, judge_back = self.discriminator
        self._freeze()
        with self._precision():
            fake_target, same_target = self._pass(there, source, target)
            fake_source, same_source = self._pass(back, target, source)
            adversarial = (judge(fake_target) - 1).square().mean() + (judge_back(fake_source) - 1).square().mean()
            cycle = F.l1_loss(back(fake_target), source) + F.l1_loss(there(fake_source), target)
            identity = F.l1_loss(same_target, target) + F.l1_loss(same_source, source)
        self._descend("generator", adversarial + recipe.cycle * (cycle + recipe.identity * identity))
        loss = torch.zeros((), device=source.device)
        for which, pool, real, fake in zip(
            (judge, judge_back), self._pools, (target, source), (fake_target, fake_source), strict=True
        ):
            real_logits, fake_logits = self._judge(which, real, pool.exchange(fake.detach()))
            loss = loss + 0.5 * (real_logits - 1).square().mean() + 0.5 * fake_logits.square().mean()
        self._descend("discriminator", loss)


class Pool:
    """Earlier results: half of the time one of them is shown in place of a new one, which is kept instead."""

    def __init__(self, size: int) -> None:
        self._size, self._kept, self._random = size, list[Tensor](), random.Random(0)  # noqa: S311 - no secret

    def exchange(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] for those given."""
        return torch.stack([self._exchange(image) for image in images])

    def _exchange(self, image: Tensor) -> Tensor:
        if len(self._kept) < self._size:
            self._kept.append(image.clone())
        elif self._random.random() < 0.5:
            place = self._random.randrange(self._size)
            image, self._kept[place] = self._kept[place], image.clone()
        return image


class PlainPaired(PlainTranslation):
    """pix2pix, arXiv:1611.07004."""

    def _move(self, source: Tensor, target: Tensor) -> None:
        with self._precision():
            result = self.generator(source)
        pair, truth = torch.cat([source, result], 1), torch.cat([source, target], 1)
        real_logits, fake_logits = self._judge(self.discriminator, truth, pair)
        loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        self._descend("discriminator", loss)
        self._freeze()
        with self._precision():
            adversarial = F.softplus(-self.discriminator(pair)).mean()
        loss = adversarial + self._recipe.reconstruction * F.l1_loss(result, target)
        self._descend("generator", loss)


LOOPS = {"cut": PlainContrastive, "fastcut": PlainContrastive, "cyclegan": PlainCycle, "pix2pix": PlainPaired}


# -- files ------------------------------------------------------------------------------------------------------------


class TwoFolders(Dataset[Sides]):
    """Picture i of the source's folder beside picture i of the target's, or beside any; in [-1, 1]."""

    def __init__(self, folder: Path, *, paired: bool) -> None:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import Compose, Normalize, ToTensor

        transform = Compose([ToTensor(), Normalize(0.5, 0.5)])
        self._sides = [ImageFolder(str(folder / side), transform) for side in ("source", "target")]
        self._paired = paired

    def __len__(self) -> int:
        return len(self._sides[0])

    def __getitem__(self, index: int) -> Sides:
        source, target = self._sides
        other = index if self._paired else int(torch.randint(len(target), ()))
        return source[index][0], target[other][0]


def open_sides(folder: Path, recipe: StyleRecipe, *, workers: int | None, tuned: bool, pin: bool) -> DataLoader[Sides]:
    """Shuffled batches of `TwoFolders`. `workers`: None for one a core, at most 4."""
    if workers is None:
        workers = min(4, describe_machine()["cores"])
    return DataLoader(
        TwoFolders(folder, paired=recipe.paired),
        recipe.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=tuned and workers > 0,
    )
