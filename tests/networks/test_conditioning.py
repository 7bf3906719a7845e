"""Labels in networks, against the projection discriminator's equation."""

import torch

from limner.networks.conditioning import LabelledLatent, ProjectionHead


def test_projection_adds_the_product_with_the_labels_embedding():
    head, features = ProjectionHead(6, classes=3), torch.randn(4, 6)
    labels = torch.tensor([2, 0, 1, 2])
    expected = head.score(features)[:, 0] + torch.stack(
        [features[i] @ head.embedding.weight[label] for i, label in enumerate(labels)]
    )
    torch.testing.assert_close(head(features, labels), expected)


def test_logits_stay_float32_in_reduced_precision():
    head = ProjectionHead(6, classes=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.randn(4, 6), torch.tensor([0, 1, 2, 0])).dtype is torch.float32


def test_a_labelled_latent_is_the_latent_beside_its_labels_embedding():
    mapping, latent, labels = LabelledLatent(5, classes=3, embedding=2), torch.randn(2, 5), torch.tensor([1, 2])
    out = mapping(latent, labels)
    assert torch.equal(out[:, :5], latent)
    assert torch.equal(out[:, 5:], mapping.embedding.weight[labels])
    assert mapping.size == 7
