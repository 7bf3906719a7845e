"""The three protocols of the FID against the tools they follow, with the same random weights on all sides."""

import numpy as np
import pytest
import torch

from limner.features import extract
from limner.features.inception_2015 import Inception, network_inputs
from tests.features.inception_stand import pictures

CPU = torch.device("cpu")
SETS = {
    "small": pictures(6),
    "large": pictures(2, seed=1, size=(300, 400)),
    "of the network's size": pictures(1, seed=2, size=299),
}


def under(protocol, ours):
    return Inception(ours.network, CPU, ours.identity, protocol)


@pytest.fixture(scope="module")
def features(ours):
    """Ours, by protocol and set."""
    return {
        protocol: {name: extract(under(protocol, ours), [images]) for name, images in SETS.items()}
        for protocol in ("tf1", "clean")
    }


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def torch_fidelity(inception_file):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    return module.FeatureExtractorInceptionV3("any", ["2048", "logits_unbiased"], str(inception_file))


@pytest.mark.parametrize("name", SETS)
def test_tf1_equals_torch_fidelity(features, torch_fidelity, name):
    assert_equal(features["tf1"][name], torch_fidelity(SETS[name])[0])


def test_class_probabilities_are_those_of_torch_fidelitys_inception_score(features, ours, torch_fidelity):
    probabilities = ours.class_probabilities(features["tf1"]["small"])
    assert probabilities.shape == (6, 1008)
    expected = torch_fidelity(SETS["small"])[1].softmax(1)
    torch.testing.assert_close(probabilities, expected, rtol=1e-3, atol=1e-7)


def test_tf1_equals_torchmetrics_without_antialias(features, inception_file):
    pytest.importorskip("torch_fidelity")
    torchmetrics = pytest.importorskip("torchmetrics.image.fid")
    network = torchmetrics.NoTrainInceptionV3("any", ["2048"], str(inception_file), antialias=False)
    for name in ("small", "large"):
        assert_equal(features["tf1"][name], network(SETS[name]))


@pytest.mark.parametrize("name", SETS)
# clean-fid names Pillow's mode of a picture in a way that Pillow is about to drop.
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_clean_equals_clean_fid(features, pytorch_fid_network, name):
    resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    resized = np.stack([resize(image.permute(1, 2, 0).numpy()) for image in SETS[name]])
    resized = torch.from_numpy(resized).permute(0, 3, 1, 2)
    seen = network_inputs(SETS[name].float(), protocol="clean")
    torch.testing.assert_close(seen, (resized - 128) / 128, rtol=0, atol=1e-4)
    # pytorch-fid's network makes 2 x - 1 of its input.
    assert_equal(features["clean"][name], pytorch_fid_network(resized / 256)[0].flatten(1))


def test_a_picture_of_the_networks_size_is_not_resized():
    images = SETS["of the network's size"].float()
    assert torch.equal(network_inputs(images, protocol="pytorch-fid"), 2 * (images / 255) - 1)
    for protocol in ("tf1", "clean"):
        torch.testing.assert_close(network_inputs(images, protocol=protocol), (images - 128) / 128, rtol=0, atol=1e-6)


def test_the_protocols_differ_and_say_so(ours):
    protocols = ("pytorch-fid", "tf1", "clean")
    seen = [network_inputs(SETS["small"].float(), protocol=protocol) for protocol in protocols]
    assert min((a - b).abs().max() for a, b in zip(seen, [*seen[1:], seen[0]], strict=True)) > 0.1
    assert len({under(protocol, ours).resize for protocol in protocols}) == 3
