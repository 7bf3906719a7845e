"""The ResNet translator against the papers' figures, and its features against hooks."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from limner.networks import build_translator
from limner.networks.resampling import pad_to_multiple
from limner.networks.resnet_translator import Block, Translator, TranslatorSettings
from limner.tasks import PictureShape

SHAPE = PictureShape(3, 32, 32, classes=0)
RESAMPLING = ["blur", "strided", "nearest"]


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(*, channels=3, **options):
    return Translator(PictureShape(channels, 32, 32, classes=0), **{"width": 8, "blocks": 2, **options})


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resampling", RESAMPLING)
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_any_size_comes_out_as_it_went_in(resampling, norm):
    made = small(resampling=resampling, norm=norm)
    for size in [(16, 16), (17, 16), (16, 31), (33, 50), (64, 18)]:
        images = torch.rand(2, 3, *size) * 2 - 1
        out = made(images)
        assert out.shape == images.shape
        assert out.dtype is torch.float32
        assert out.abs().max() < 1


@pytest.mark.parametrize("halvings", [0, 1, 2, 3])
@pytest.mark.parametrize("blocks", [1, 6])
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_halvings_blocks_and_channels_can_be_built(halvings, blocks, channels):
    made = small(channels=channels, halvings=halvings, blocks=blocks)
    assert made.multiple == 2**halvings
    images = torch.rand(1, channels, 16, 21)
    out, features = made.forward_with_features(images, range(len(made.feature_channels)))
    assert out.shape == images.shape
    assert [each.shape[1] for each in features] == made.feature_channels


def test_a_size_that_is_no_multiple_is_reflected_and_cropped():
    made, images = small().eval(), torch.rand(2, 3, 21, 18)
    padded = pad_to_multiple(images, 4)
    assert padded.shape == (2, 3, 24, 20)
    torch.testing.assert_close(made(images), made(padded)[:, :, :21, :18])


@pytest.mark.parametrize("resampling", RESAMPLING)
def test_an_export_of_any_batch_height_and_width_is_the_network(resampling):
    made = small(resampling=resampling).eval()
    batch, height, width = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "height", "width"))
    sizes = {0: batch, 2: made.multiple * height, 3: made.multiple * width}
    example = torch.rand(2, 3, 32, 32)
    program = torch.export.export(made, (), {"source": example}, dynamic_shapes={"source": sizes}).module()
    for size in [(1, 3, 16, 16), (3, 3, 16, 40), (5, 3, 64, 36)]:
        images = torch.rand(*size) * 2 - 1
        torch.testing.assert_close(program(source=images), made(images), rtol=1e-4, atol=1e-5)


# -- the papers' network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resampling", RESAMPLING)
def test_the_network_of_nine_blocks_is_cyclegans(resampling):
    """11.378 M parameters there; 5,248 are offsets that a normalisation takes away again, and that are not here."""
    with torch.device("meta"):
        made = build_translator(TranslatorSettings(resampling=resampling), SHAPE)
    down = 3 * 64 * 7 * 7 + 64 * 128 * 9 + 128 * 256 * 9
    up = 256 * 128 * 9 + 128 * 64 * 9 + (64 * 3 * 7 * 7 + 3)
    assert count(made) == down + 9 * 2 * 256 * 256 * 9 + up == 11_372_931
    dead = 64 + 128 + 256 + 9 * 2 * 256 + 128 + 64
    assert count(made) + dead == 11_378_179


def test_the_default_layers_are_cuts_five():
    with torch.device("meta"):
        nine, six, three, one = (Translator(SHAPE, blocks=blocks) for blocks in (9, 6, 3, 1))
        once = Translator(SHAPE, blocks=6, halvings=1)
    assert nine.default_layers == six.default_layers == (0, 2, 3, 4, 8)
    assert three.default_layers == (0, 2, 3, 4, 6)
    assert one.default_layers == (0, 2, 3, 4)
    assert once.default_layers == (0, 2, 3, 7)
    assert [nine.feature_channels[layer] for layer in nine.default_layers] == [3, 128, 256, 256, 256]


@pytest.mark.parametrize("resampling", RESAMPLING)
def test_layers_are_what_the_docstring_says(resampling):
    made, images = small(resampling=resampling), torch.rand(1, 3, 32, 24)
    convolutions = [each for each in made.encoder.modules() if isinstance(each, nn.Conv2d)]
    seen = {}
    for number, layer in enumerate(convolutions[:3]):
        layer.register_forward_hook(lambda _, given, out, number=number: seen.update({number: (given[0], out)}))
    blocks = [each for each in made.modules() if isinstance(each, Block)]
    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda _, given, out, number=number: seen.update({f"block {number}": out}))
    features = made.features(images, range(6))
    assert torch.equal(features[0], nn.functional.pad(images, [3] * 4, mode="reflect"))
    assert torch.equal(features[0], seen[0][0])
    expected = nn.functional.instance_norm(seen[0][1]).relu()
    torch.testing.assert_close(features[1], expected)
    assert torch.equal(features[1], seen[1][0])
    assert torch.equal(features[2], seen[1][1]), "the first halving's convolution, not yet normalised"
    assert torch.equal(features[3], seen[2][1]), "the second one's"
    assert torch.equal(features[4], seen["block 0"])
    assert torch.equal(features[5], seen["block 1"])
    # Anti-aliased, a convolution comes before its halving, as in CUT's code.
    assert features[2].shape[2:] == ((32, 24) if resampling == "blur" else (16, 12))


def test_translating_and_taking_features_is_one_pass():
    made, images = small().eval(), torch.rand(2, 3, 20, 17)
    runs = []
    for number, layer in enumerate(made.encoder):
        layer.register_forward_hook(lambda *_, number=number: runs.append(number))
    out, features = made.forward_with_features(images, (4, 0, 2))
    assert runs == list(range(6))
    assert torch.equal(out, made(images))
    for ours, theirs in zip(features, made.features(images, (4, 0, 2)), strict=True):
        assert torch.equal(ours, theirs)
    runs.clear()
    made.features(images, (0, 2))
    assert runs == [0, 1, 2], "no later layer runs"


# -- how it begins, and that it learns --------------------------------------------------------------------------------


def test_weights_begin_as_the_papers_have_them():
    convolutions = nn.Conv2d | nn.ConvTranspose2d
    for layer in Translator(SHAPE, width=32, blocks=2, resampling="strided").modules():
        if isinstance(layer, convolutions):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert layer.weight.mean().abs().item() < 1e-3
            assert layer.bias is None or not layer.bias.any()
    for layer in Translator(SHAPE, width=32, blocks=2, init="xavier").modules():
        if isinstance(layer, nn.Conv2d):
            fans = (layer.in_channels + layer.out_channels) * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx(0.02 * (2 / fans) ** 0.5, rel=0.05)


def test_without_normalisation_blocks_begin_as_the_identity_and_the_signal_lives():
    made = Translator(SHAPE, width=32, blocks=9, norm="none")
    block, x = (
        made.encoder[-1][0] if isinstance(made.encoder[-1], nn.Sequential) else made.encoder[-1],
        torch.randn(1, 128, 8, 8),
    )
    assert torch.equal(block(x), x)
    out = made(torch.rand(4, 3, 32, 32) * 2 - 1)
    assert 0.05 < out.std().item() < 0.95
    assert not [each for each in made.modules() if isinstance(each, nn.InstanceNorm2d)]


@pytest.mark.parametrize("resampling", RESAMPLING)
@pytest.mark.parametrize("norm", ["instance", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_gradient(resampling, norm, dtype):
    made = small(resampling=resampling, norm=norm)
    for block in made.modules():
        if isinstance(block, Block) and norm == "none":
            nn.init.normal_(block.second.weight, std=0.1)  # zero at the start, which stops what is before it
    images = torch.rand(2, 3, 24, 24) * 2 - 1
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        out = made(images)
    assert out.dtype is torch.float32
    (out - images.flip(3)).abs().mean().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # What a normalisation takes away again would leave rounding here, some 1e-9.
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("resampling", RESAMPLING)
def test_reduced_precision_is_close_to_full(resampling):
    made, images = small(resampling=resampling).eval(), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        reduced = made(images)
    assert reduced.dtype is torch.float32
    torch.testing.assert_close(reduced, made(images), rtol=0, atol=0.06)


def test_saved_and_loaded_networks_are_the_same():
    made, again, images = small(), small(), torch.rand(1, 3, 16, 16)
    again.load_state_dict(made.state_dict())
    assert torch.equal(made(images), again(images))


@pytest.mark.parametrize(
    "wrong", [{"blocks": 0}, {"width": 0}, {"halvings": 4}, {"resampling": "bicubic"}, {"norm": "batch"}, {"depth": 8}]
)
def test_settings_refuse_nonsense(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TranslatorSettings(**wrong)
