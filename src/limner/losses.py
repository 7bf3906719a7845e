"""Losses: adversarial ones first, then those of translation; each a scalar to minimise.

Logits are float tensors [N], or [N, P] of a discriminator that judges P patches, larger for "real". With C the
discriminator's logit, x real and G(z) fake:

    name             discriminator minimises                            generator minimises
    bce              E softplus(-C(x)) + E softplus(C(G(z)))            E softplus(-C(G(z)))
    bce-saturating   the same                                           -E softplus(C(G(z)))
    lsgan            1/2 E (C(x) - 1)^2 + 1/2 E C(G(z))^2               1/2 E (C(G(z)) - 1)^2
    hinge            E max(0, 1 - C(x)) + E max(0, 1 + C(G(z)))         -E C(G(z))
    wgan             E C(G(z)) - E C(x)                                 -E C(G(z))
    rpgan            E softplus(C(G(z)) - C(x))                         E softplus(C(x) - C(G(z)))

Each E is a mean over pictures and patches; a relativistic loss pairs patch p of a fake with patch p of a real.

Beside them stands LeCam regularisation, a penalty on logits rather than on gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

LossName = Literal["bce", "bce-saturating", "lsgan", "hinge", "wgan", "rpgan"]


def cross_entropy_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy with label 1 for real and 0 for fake, summed over both. arXiv:1406.2661, equation 1."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of the fakes against the label "real". arXiv:1406.2661, section 3. `real` is not used."""
    del real
    return F.softplus(-fake).mean()


def saturating_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """log(1 - D(G(z))): the minimax game as written, with little gradient early on. arXiv:1406.2661, equation 1."""
    del real
    return -F.softplus(fake).mean()


def least_squares_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the squared distance of real logits to 1 and of fake ones to 0. LSGAN, arXiv:1611.04076, equation 9."""
    return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()


def least_squares_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the squared distance of fake logits to 1. LSGAN, arXiv:1611.04076, equation 9. `real` is not used."""
    del real
    return 0.5 * (fake - 1).square().mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss with margin 1. Geometric GAN, arXiv:1705.02894; SNGAN, arXiv:1802.05957, equation 16."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Minus the mean fake logit. SNGAN, arXiv:1802.05957, equation 17. `real` is not used."""
    del real
    return -fake.mean()


def wasserstein_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Minus the critic's estimate of the Wasserstein-1 distance. WGAN, arXiv:1701.07875.

    It has no lower end: something has to keep the critic's slope in bounds, a gradient penalty or spectral norm.
    """
    return fake.mean() - real.mean()


def wasserstein_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Minus the mean fake logit. WGAN, arXiv:1701.07875. `real` is not used."""
    del real
    return -fake.mean()


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Relativistic pairing: each fake against one real. arXiv:1807.00734; as RpGAN in R3GAN, arXiv:2501.05441."""
    return F.softplus(fake - real).mean()


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's pairing with the roles exchanged. arXiv:2501.05441."""
    return F.softplus(real - fake).mean()


@dataclass(frozen=True)
class AdversarialLoss:
    """Both players' losses; each takes real and fake logits [N] or [N, P]."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    probability: Callable[[Tensor], Tensor] | None = None
    """D(x), the probability of being real, of a logit; None where the loss does not define it."""
    relativistic: bool = False
    """The generator's loss looks at real logits too."""
    offset_free: bool = False
    """An offset of all logits does not change the discriminator's loss: it could never train a last bias."""


ADVERSARIAL: dict[LossName, AdversarialLoss] = {
    "bce": AdversarialLoss(cross_entropy_discriminator_loss, non_saturating_generator_loss, torch.sigmoid),
    "bce-saturating": AdversarialLoss(cross_entropy_discriminator_loss, saturating_generator_loss, torch.sigmoid),
    "lsgan": AdversarialLoss(least_squares_discriminator_loss, least_squares_generator_loss),
    "hinge": AdversarialLoss(hinge_discriminator_loss, hinge_generator_loss),
    "wgan": AdversarialLoss(wasserstein_discriminator_loss, wasserstein_generator_loss, offset_free=True),
    "rpgan": AdversarialLoss(
        relativistic_discriminator_loss, relativistic_generator_loss, relativistic=True, offset_free=True
    ),
}


def lecam_penalty(real: Tensor, fake: Tensor, real_anchor: Tensor, fake_anchor: Tensor) -> Tensor:
    """E max(0, C(x) - fake_anchor)^2 + E max(0, real_anchor - C(G(z)))^2: holds a sure discriminator back.

    LeCam regularisation for little data, arXiv:2104.03310. The paper writes the squared distances; the maximum is from
    its authors' code (google/lecam-gan), which leaves alone the logits on the wrong side of the anchor. Anchors are
    running means of the logits, see `LogitAnchors`. Not for a relativistic loss: that leaves the level of the logits
    free, so that it can wander away from the anchors and the penalty would act on the level, not on the difference.
    """
    return F.relu(real - fake_anchor).square().mean() + F.relu(real_anchor - fake).square().mean()


class LogitAnchors(nn.Module):
    """Exponentially weighted means of real and fake logits over the batches seen: what `lecam_penalty` compares with.

    Without bias towards where they begin: the first batch alone sets them (arXiv:1412.6980, section 3, divides by
    1 - decay^t for the same). They are buffers, so they are saved with the method's networks.
    """

    real: Tensor
    fake: Tensor
    _weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("real", "fake", "_weight"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, real_logits: Tensor, fake_logits: Tensor, *, decay: float) -> None:
        """Takes one batch of logits [N] or [N, P] in, without waiting for the device. `decay` in [0, 1); paper: 0.99.

        A batch with a logit that is not finite is left out: its step is skipped too, and it must not stay for ever.
        """
        real, fake = real_logits.float().mean(), fake_logits.float().mean()
        usable = torch.isfinite(real) & torch.isfinite(fake)
        weight = self._weight * decay + (1 - decay)
        share = (1 - decay) / weight
        for anchor, mean in ((self.real, real), (self.fake, fake)):
            anchor.copy_(torch.where(usable, anchor + share * (mean - anchor), anchor))
        self._weight.copy_(torch.where(usable, weight, self._weight))


# -- translation ------------------------------------------------------------------------------------------------------


def cycle_loss(returned: Tensor, images: Tensor) -> Tensor:
    """E |F(G(x)) - x|: there and back again is where one was. CycleGAN, arXiv:1703.10593, equation 2, one direction.

    `returned` and `images` are [N, C, H, W]; the mean is over pixels, so that the paper's factor of 10 fits any size.
    """
    return F.l1_loss(returned, images)


def identity_loss(translated: Tensor, images: Tensor) -> Tensor:
    """E |G(y) - y| for y of the target: what has the style already stays. CycleGAN, arXiv:1703.10593, section 5.2."""
    return F.l1_loss(translated, images)


def reconstruction_loss(translated: Tensor, truth: Tensor) -> Tensor:
    """E |y - G(x)| for a pair (x, y). pix2pix, arXiv:1611.07004, equation 3, there with a factor of 100."""
    return F.l1_loss(translated, truth)


def patch_nce_loss(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float = 0.07,
    negatives: Literal["image", "batch"] = "image",
    external: Tensor | None = None,
) -> Tensor:
    """Which of the source's patches a translated patch came from: cross-entropy, mean over N pictures and P patches.

    CUT, arXiv:2007.15651, equation 3 with v of the `query`, v+ of the `key` at the same place and v- the `negatives`:

        -log( exp(v . v+ / t) / (exp(v . v+ / t) + sum_n exp(v . v-_n / t)) )

    `query` and `key` are unit vectors [N, P, D] of the translated pictures and of their sources. Negatives are the keys
    at the P - 1 other places of the same picture, or with `batch` at the N P - 1 others of all pictures, whose logits
    take (N P)^2 numbers; and besides them `external` unit vectors [M, D], if given. Gradients reach the query and the
    external ones, never the key: it is detached here. In float32 under autocast too.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.float(), key.detach().float()
        if negatives == "batch":
            query, key = query.flatten(0, 1)[None], key.flatten(0, 1)[None]
        logits = query @ key.transpose(1, 2)  # [N, P, P], the positive on the diagonal
        truth = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
        if external is not None:
            logits = torch.cat([logits, query @ external.float().T], dim=2)
        return F.cross_entropy(logits.flatten(0, 1) / temperature, truth.flatten())


def flip_equivariance_loss(flipped: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """Mean over layers of E |flip(f(flip(x))) - f(x)|: a mirrored picture has mirrored features.

    `flipped` are the features [N, C, H, W] of each layer for the pictures mirrored left to right, `features` those for
    the pictures themselves. FastCUT (arXiv:2007.15651) asks for the same by its data: it mirrors the
    source at random and, before PatchNCE, mirrors the query's features back.
    """
    terms = [F.l1_loss(mirrored.flip(3), plain) for mirrored, plain in zip(flipped, features, strict=True)]
    return torch.stack(terms).mean()


def feature_consistency_loss(features: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Mean over layers of E (f(G(x)) - f(x))^2: the translation keeps what a recogniser sees in the source.

    Feature reconstruction, arXiv:1603.08155, equation 2. Both are features of each layer, of one shape; the
    `reference`, those of the source, is detached.
    """
    terms = [F.mse_loss(new, old.detach()) for new, old in zip(features, reference, strict=True)]
    return torch.stack(terms).mean()


def prediction_consistency_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of the class that is read from a translation, logits [N, K], to the one it should have.

    The semantic consistency of CyCADA, arXiv:1711.03213. `truth` are labels [N], or probabilities [N, K]
    that a recogniser gave the source; they are detached.
    """
    return F.cross_entropy(logits.float(), truth.detach())
