"""The projection of PatchNCE: the same places for query and key, none twice, never more than there are."""

import pytest
import torch

from limner.networks.patch_projection import PatchProjection
from limner.randomness import generator


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def maps(*sizes):
    return [torch.randn(2, channels, height, width) for channels, height, width in sizes]


def test_vectors_are_of_the_chosen_places_and_of_length_one():
    projection, layers = PatchProjection([3, 8], width=16), maps((3, 10, 12), (8, 5, 6))
    vectors, places = projection.sample(layers, 20, generator(0))
    for head, layer, vector, chosen in zip(projection.heads, layers, vectors, places, strict=True):
        assert vector.shape == (2, 20, 16)
        torch.testing.assert_close(vector.norm(dim=2), torch.ones(2, 20))
        for n in range(2):
            for p, place in enumerate(chosen.tolist()):
                plain = head(layer[n, :, place // layer.shape[3], place % layer.shape[3]])
                torch.testing.assert_close(vector[n, p], plain / plain.norm())


def test_places_differ_are_drawn_evenly_and_are_no_more_than_there_are():
    projection, layers = PatchProjection([3, 3], width=4), maps((3, 4, 4), (3, 2, 3))
    rng, counts = generator(0), torch.zeros(16)
    for _ in range(400):
        _, (large, all_of_them) = projection.sample(layers, 8, rng)
        assert large.unique().numel() == 8
        assert sorted(all_of_them.tolist()) == list(range(6))
        counts[large] += 1
    assert counts.sum() == 3200
    assert (counts - 200).abs().max() < 50, "5 standard deviations"


def test_given_places_are_used_and_nothing_is_drawn():
    projection, layers, rng = PatchProjection([3], width=4), maps((3, 8, 8)), generator(0)
    key, places = projection.sample(layers, 10, rng)
    before = rng.get_state()
    query, again = projection.sample(layers, 10, rng, places=places)
    assert torch.equal(rng.get_state(), before)
    assert torch.equal(again[0], places[0])
    assert torch.equal(query[0], key[0])


def test_the_same_seed_gives_the_same_places():
    projection, layers = PatchProjection([3], width=4), maps((3, 8, 8))
    first, second, other = (projection.sample(layers, 10, generator(seed))[1][0] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_all_weights_are_there_before_a_batch_is_and_each_gets_a_gradient():
    projection, layers = PatchProjection([3, 8], width=16), maps((3, 8, 8), (8, 4, 4))
    names = set(dict(projection.named_parameters()))
    assert len(names) == 8
    query, _ = projection.sample(layers, 8, generator(0))
    assert set(dict(projection.named_parameters())) == names
    weights = [torch.randn(16) for _ in query]
    sum((each @ weight).sum() for each, weight in zip(query, weights, strict=True)).backward()
    for name, parameter in projection.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name
    with pytest.raises(ValueError, match="argument 2"):
        projection.sample(layers[:1], 8, generator(0))


def test_vectors_stay_float32_in_reduced_precision():
    projection, layers = PatchProjection([8], width=16), maps((8, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        vectors, places = projection.sample(layers, 10, generator(0))
    assert vectors[0].dtype is torch.float32
    torch.testing.assert_close(vectors[0].norm(dim=2), torch.ones(2, 10))
    exact, _ = projection.sample(layers, 10, generator(0), places=places)
    torch.testing.assert_close(vectors[0], exact[0], rtol=0, atol=0.02)
