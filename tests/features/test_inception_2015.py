"""The FID network: equal to pytorch-fid's, with the same random weights on both sides, and picky about its weights."""

import pytest
import torch

from limner.errors import LimnerError
from limner.features import MANY, extract, fit_for, inception_2015
from limner.features.inception_2015 import find_weights, load_inception, usual_places
from limner.frechet import Moments, frechet_distance
from tests.features.inception_stand import pictures

CPU = torch.device("cpu")


def theirs(network, images):
    return network(images.float() / 255)[0].flatten(1)


@pytest.fixture(scope="module")
def features(ours, pytorch_fid_network):
    sets = {"real": pictures(5), "generated": pictures(4, seed=1), "large": pictures(1, seed=2, size=500)}
    return {name: (extract(ours, [images]), theirs(pytorch_fid_network, images)) for name, images in sets.items()}


def test_features_equal_those_of_pytorch_fid(features):
    for ours, reference in features.values():
        assert ours.shape == reference.shape == (len(ours), 2048)
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
    assert features["real"][0].std(0).mean() > 1e-2, "pictures that all look alike would prove nothing"


# Its last step calls scipy's sqrtm in a way that scipy is about to drop.
@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")
def test_frechet_distance_equals_that_of_pytorch_fid(features):
    from pytorch_fid.fid_score import calculate_frechet_distance

    sets = [features["real"], features["generated"]]
    moments = [Moments.of(ours[:, :3]) for ours, _ in sets]
    expected = calculate_frechet_distance(
        *(
            statistic
            for _, reference in sets
            for statistic in (
                reference[:, :3].double().mean(0).numpy(),
                torch.cov(reference[:, :3].double().T).numpy(),
            )
        )
    )
    assert frechet_distance(*(each.gaussian() for each in moments)) == pytest.approx(expected, rel=1e-4)


def test_the_form_for_many_pictures_differs_by_rounding_only(ours):
    many = fit_for(ours, MANY)
    assert many is fit_for(ours, MANY), "it is made once"
    assert fit_for(ours, MANY - 1) is ours
    assert (many.name, many.identity, many.resize) == (ours.name, ours.identity, ours.resize)
    images = torch.cat([pictures(3), pictures(4, seed=1)])
    torch.testing.assert_close(extract(many, [images]), extract(ours, [images]), rtol=1e-5, atol=1e-5)
    assert extract(many, [images[:1]]).shape == (1, 2048)


def test_grey_is_repeated_and_alpha_lies_over_black():
    seen = inception_2015.Inception(torch.nn.Identity(), CPU, identity="")  # the "features" are the network's input
    grey = pictures(1, 1)
    colour = grey.expand(-1, 3, -1, -1)
    opaque = torch.cat([colour, torch.full_like(grey, 255)], 1)
    hidden = torch.cat([pictures(1, seed=3), torch.zeros_like(grey)], 1)
    assert seen(grey).shape == (1, 3, 299, 299)
    assert torch.equal(seen(grey), seen(colour))
    assert torch.equal(seen(opaque), seen(colour))
    assert (seen(hidden) == -1).all()


def test_only_the_published_weights_are_called_by_the_networks_name(ours):
    assert len(ours.identity) == 64
    assert ours.name == f"inception-v3-{ours.identity[:8]}"
    published = inception_2015.Inception(ours.network, CPU, "6726825d" + 56 * "0")
    assert published.name == "inception-v3-2015"


def test_loading_takes_no_random_numbers(inception_file):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_inception(inception_file, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_stages_end_in_what_the_features_are_the_mean_of(ours):
    images = pictures(1)
    with torch.no_grad():
        maps = ours.stages(images)
    assert [tuple(each.shape[1:]) for each in maps] == [(64, 73, 73), (192, 35, 35), (768, 17, 17), (2048, 8, 8)]
    torch.testing.assert_close(maps[-1].mean((2, 3)), extract(ours, [images]), rtol=1e-5, atol=1e-5)


def test_the_file_must_have_the_sha256_that_is_asked_for(inception_file, ours):
    load_inception(inception_file, device=CPU, sha256=ours.identity[:8].upper())
    with pytest.raises(
        LimnerError, match=f"weights.pth does not hold[\\s\\S]*is {ours.identity}, and 6726825d is asked"
    ):
        load_inception(inception_file, device=CPU, sha256="6726825d")
    with pytest.raises(LimnerError, match="'6726' is not a SHA-256"):
        load_inception(inception_file, device=CPU, sha256="6726")


def test_weights_are_found_where_other_tools_leave_them(tmp_path):
    places = usual_places(tmp_path)
    with pytest.raises(
        LimnerError,
        match=r"No Inception weights are given.*\n.*searched .*hub.checkpoints.*\n.*weights.*TorchScript.*not read",
    ):
        find_weights(None, elsewhere=places)
    places[1].parent.mkdir(parents=True)
    places[1].touch()
    assert places[1].name == "weights-inception-2015-12-05-6726825d.pth"
    assert find_weights(None, elsewhere=places) == places[1]


def test_a_path_that_is_given_is_not_replaced_by_another(tmp_path):
    elsewhere = tmp_path / "there.pth"
    elsewhere.touch()
    with pytest.raises(LimnerError, match=r"There are no Inception weights at .*missing\.pth"):
        find_weights(tmp_path / "missing.pth", elsewhere=[elsewhere])


@pytest.mark.parametrize("content", ["junk", "other network", "list", "object"])
def test_a_file_that_holds_something_else_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content == "junk":
        path.write_bytes(b"<!DOCTYPE html>")
    else:
        what = {"other network": {"weight": torch.zeros(3)}, "list": [torch.zeros(3)], "object": torch.nn.Linear(2, 2)}
        torch.save(what[content], path)
    with pytest.raises(LimnerError, match="does not hold Inception weights"):
        load_inception(path, device=CPU)


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_of_weights_runs_no_code(tmp_path):
    torch.save({"weights": Trap(tmp_path / "sprung")}, tmp_path / "weights.pth")
    with pytest.raises(LimnerError, match="does not hold Inception weights"):
        load_inception(tmp_path / "weights.pth", device=CPU)
    assert not (tmp_path / "sprung").exists()
