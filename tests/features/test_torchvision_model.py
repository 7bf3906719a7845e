"""Classifiers of torchvision with a file of weights: here random ones."""

import pytest
import torch
import torchvision

from limner.errors import LimnerError
from limner.features import extract
from limner.features.torchvision_model import load_torchvision_model
from tests.features.inception_stand import pictures

CPU = torch.device("cpu")


@pytest.fixture
def weights(tmp_path):
    def save(model, **options):
        with torch.random.fork_rng():
            network = torchvision.models.get_model(model, weights=None, **options).eval()
        torch.save(network.state_dict(), tmp_path / f"{model}.pth")
        return network, tmp_path / f"{model}.pth"

    return save


def test_features_are_what_the_last_layer_reads(weights):
    network, path = weights("mobilenet_v3_small")
    images = pictures(2, size=224)  # the network's own size: nothing is resized
    extractor = load_torchvision_model("mobilenet_v3_small", path, device=CPU)
    features = extract(extractor, [images])
    assert features.shape == (2, 1024)
    as_published = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT.transforms(resize_size=224)
    with torch.no_grad():
        expected = network(as_published(images))
        torch.testing.assert_close(network.classifier[3](features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("model", "size"), [("resnet18", 512), ("shufflenet_v2_x0_5", 1024)])
def test_it_is_named_without_a_colon_and_known_by_its_weights(weights, model, size):
    _, path = weights(model)
    extractor = load_torchvision_model(model, path, device=CPU)
    assert extractor.name == f"torchvision-{model}"
    assert (len(extractor.identity), extractor.resize) == (64, "bicubic to 224, antialiased")
    assert extract(extractor, [pictures(1, 1, size=(40, 30))]).shape == (1, size)


def test_loading_takes_no_random_numbers(weights):
    _, path = weights("resnet18")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_torchvision_model("resnet18", path, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_models_that_warn_of_their_initialisation_are_not_initialised(weights):
    _, path = weights("googlenet", init_weights=False)
    extractor = load_torchvision_model("googlenet", path, device=CPU)
    assert extract(extractor, [pictures(1)]).shape == (1, 1024)


def test_an_unknown_model_is_told_the_nearest(tmp_path):
    with pytest.raises(LimnerError, match=r"no classifier 'resnet81'[\s\S]*Did you mean 'resnet18'"):
        load_torchvision_model("resnet81", tmp_path / "weights.pth", device=CPU)


def test_weights_have_to_be_given_and_to_fit(weights, tmp_path):
    with pytest.raises(LimnerError, match=r"No weights are given for .*torchvision:resnet18[\s\S]*https://.*resnet18"):
        load_torchvision_model("resnet18", None, device=CPU)
    with pytest.raises(LimnerError, match=r"There are no weights at .*missing\.pth"):
        load_torchvision_model("resnet18", tmp_path / "missing.pth", device=CPU)
    _, path = weights("resnet18")
    with pytest.raises(LimnerError, match=r"does not hold weights of torchvision's resnet34[\s\S]*Missing key"):
        load_torchvision_model("resnet34", path, device=CPU)
    with pytest.raises(LimnerError, match="and 00000000 is asked for"):
        load_torchvision_model("resnet18", path, device=CPU, sha256="00000000")


def test_a_model_without_a_linear_layer_is_refused(weights):
    _, path = weights("squeezenet1_1")
    with pytest.raises(LimnerError, match=r"torchvision:squeezenet1_1 cannot be had"):
        load_torchvision_model("squeezenet1_1", path, device=CPU)
