"""The memory of generated pictures that a discriminator is shown besides the newest (arXiv:1612.07828, section 2.3)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn


class ImagePool(nn.Module):
    """Up to `size` images [C, H, W] that were generated before; CycleGAN keeps 50 (arXiv:1703.10593, section 4).

    Its state are buffers of a fixed size, so it is saved, loaded and moved with the networks beside it.
    """

    images: Tensor
    labels: Tensor
    filled: Tensor

    def __init__(self, size: int, channels: int, height: int, width: int) -> None:
        """A `size` of 0 keeps nothing: every exchange returns what it is given."""
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(size, channels, height, width))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def exchange(self, images: Tensor, rng: Generator) -> Tensor:
        """Images [N, C, H, W] for the discriminator in place of the newest ones, without gradients.

        While there is room an image is stored and returned. After that, with probability 1/2 it takes the place of a
        stored one, which is returned; else it is returned itself. Of `size` images at a time no two get the same place,
        and none gets one that they filled. Images that are not finite, and those with them, are returned and not kept.
        `rng` is on the images' device; nothing waits for the device.
        """
        return self._exchange(images, None, rng)[0]

    def exchange_labelled(self, images: Tensor, labels: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """The same, with the labels [N] that the returned images were made with: for a discriminator with classes."""
        images, found = self._exchange(images, labels, rng)
        assert found is not None
        return images, found

    @torch.no_grad()
    def _exchange(self, images: Tensor, labels: Tensor | None, rng: Generator) -> tuple[Tensor, Tensor | None]:
        images = images.detach()
        if not self.size:
            return images, labels
        shown = images.clone()
        shown_labels = None if labels is None else labels.clone()
        usable = torch.isfinite(images).all()  # else the step is skipped, and nothing of it must stay for ever
        for start in range(0, len(images), self.size):  # as many at a time as there are places
            part = slice(start, start + self.size)
            places, fresh, swapped = self._draw(len(images[part]), rng)
            stored = (fresh | swapped) & usable
            shown[part] = _swap(self.images, places, images[part], stored=stored, swapped=swapped)
            if labels is not None and shown_labels is not None:
                shown_labels[part] = _swap(self.labels, places, labels[part], stored=stored, swapped=swapped)
            self.filled.add_(fresh.sum() * usable)
        return shown, shown_labels

    def _draw(self, count: int, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A place for each of `count` images, which of them fill an empty one, and which take a stored one's."""
        device = self.images.device
        place = torch.arange(self.size, device=device)
        fresh = place[:count] < self.size - self.filled
        # The places to be filled now come first and in order, then the others at random: image n gets the n-th.
        filling = (place >= self.filled) & (place < self.filled + count)
        order = torch.where(filling, 1 + self.size - place, torch.rand(self.size, generator=rng, device=device))
        swapped = ~fresh & (torch.rand(count, generator=rng, device=device) < 1 / 2)
        return order.topk(count).indices, fresh, swapped


def _swap(pool: Tensor, places: Tensor, new: Tensor, *, stored: Tensor, swapped: Tensor) -> Tensor:
    """Puts those of `new` that are `stored` at their places, and returns what was there instead of the `swapped`."""
    across = (-1, *[1] * (new.ndim - 1))
    old = pool[places]
    pool[places] = torch.where(stored.view(across), new.to(pool.dtype), old)
    return torch.where(swapped.view(across), old.to(new.dtype), new)
