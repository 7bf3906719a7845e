import pytest
import torch

from benchmarks.evaluate import random_weights
from limner.features.inception_2015 import load_inception


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """A file of random weights in the published layout."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(random_weights(), path)
    return path


@pytest.fixture(scope="session")
def ours(inception_file):
    """The extractor with these weights, of the protocol `pytorch-fid`."""
    return load_inception(inception_file, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def pytorch_fid_network(inception_file):
    """pytorch-fid's network with these weights: pictures [N, 3, H, W] in [0, 1] -> a list of maps [N, 2048, 1, 1]."""
    pytorch_fid = pytest.importorskip("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(pytorch_fid, "load_state_dict_from_url", lambda url, progress: torch.load(inception_file))
        # Its own initialisation takes half a minute, for weights that are replaced at once.
        patch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)
        return pytorch_fid.InceptionV3().eval().requires_grad_(False)
