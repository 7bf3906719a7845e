"""The plain loops of translation compute what Limner computes, and the benchmark runs from end to end."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.style import main
from benchmarks.style_loops import LOOPS, Chance, Pool, TwoFolders
from benchmarks.style_recipe import METHODS, StyleRecipe, blur_by_convolution, build_style, prepare_sides, write_sides
from benchmarks.style_rows import plain_networks, style_rows
from benchmarks.training_rows import Subject
from limner.data import open_batches
from limner.game import MicroBatch, Moment
from limner.networks.patch_projection import PatchProjection
from limner.networks.resampling import BlurHalve
from limner.randomness import generator

CPU = torch.device("cpu")
RECIPE = StyleRecipe(width=4, blocks=2, size=32, batch=4, patches=16, dropout=0.0)
RECIPES = {method: replace(RECIPE, method=method) for method in METHODS}
MOMENT = Moment(step=2, images_seen=0, total_images=1000)
FORKS = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)  # Python 3.12 and newer, of PyTorch's loader processes


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    found = {}
    for paired in (False, True):
        recipe = RECIPES["pix2pix" if paired else "fastcut"]
        found[paired] = prepare_sides(tmp_path_factory.mktemp("sides") / "data", recipe, quick=True)[1]
    return found


@pytest.fixture
def data(datasets, method):
    return datasets[RECIPES[method].paired]


@pytest.fixture
def batch(data, method):
    task = "paired" if RECIPES[method].paired else "unpaired"
    return open_batches(data, task=task, batch=RECIPE.batch, seed=0, device=CPU).at(0)


def seeded():
    return torch.Generator().manual_seed(7)


class LimnersChance(Chance):
    """The same numbers as a step of Limner draws from its generator."""

    def __init__(self):
        self._rng = seeded()

    def coin(self):
        return float(torch.rand((), generator=generator(0, "mirror", MOMENT.step))) < 0.5

    def places(self, there, count, device):
        return torch.rand(there, generator=self._rng).topk(count).indices


def well_conditioned(optimizers):
    """Adam's first step is the sign of a gradient, also where that is next to nothing: rounding could turn it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["eps"] = 1e-3


def stepped(method, batch):
    """Limner's method after a step, and the losses that it told."""
    well_conditioned(method.optimizers.values())
    return method, method.step([MicroBatch(batch, seeded())], MOMENT)


def limner_after_a_step(name, data, batch):
    return stepped(build_style(RECIPES[name].settings(), data, CPU), batch)


def plain_after_a_step(recipe, data, batch, *, tuned=False, apart=False):
    networks = plain_networks(Subject(recipe, data, Path("none"), CPU, "fp32", 0), tuned=tuned)
    sides = iter([(batch.source.images, batch.target.images)])
    loop = LOOPS[recipe.method](networks, recipe, sides, tuned=tuned, apart=apart, chance=LimnersChance())
    well_conditioned([loop.generator_optimizer, loop.discriminator_optimizer])
    loop.step()
    return loop


def parameters(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def moved(optimizers):
    """Gradient and new weights of every parameter, by player: a first moment is a share of the first gradient."""
    found = {"generator": [], "discriminator": []}
    for name, optimizer in optimizers.items():
        player = found["discriminator" if name.startswith("discriminator") else "generator"]
        player += [(optimizer.state[p]["exp_avg"], p.detach()) for p in parameters(optimizer)]
    return found


def distance(mine, theirs):
    """Largest relative distance of a player's gradients and weights, each as a whole and of any one parameter."""
    furthest = 0.0
    for player in mine:
        pairs = list(zip(mine[player], theirs[player], strict=True))
        for kind in range(2):
            scale = torch.stack([his[kind].norm() for _, his in pairs]).norm()
            for my, his in pairs:
                # Offsets before a normalisation have no gradient but rounding: the player's own is their measure.
                near = max(float(his[kind].norm()), 1e-3 * float(scale))
                furthest = max(furthest, float((my[kind] - his[kind]).norm()) / near)
    return furthest


def of_plain(loop):
    return moved({"generator": loop.generator_optimizer, "discriminator": loop.discriminator_optimizer})


def total_losses(name, told):
    """Each player's loss, of Limner's terms: by the papers' weights."""
    sums = {
        "cut": {"loss/generator": 2.0, "loss/nce": 0.5, "loss/nce_identity": 0.5},
        "fastcut": {"loss/generator": 2.0, "loss/nce": 10.0},
        "cyclegan": {
            f"loss/{term}{side}": weight
            for term, weight in {"generator": 2.0, "cycle": 10.0, "identity": 5.0}.items()
            for side in ("", "_back")
        },
        "pix2pix": {"loss/generator": 1.0, "loss/reconstruction": 100.0},
    }
    judges = [told[f"loss/discriminator{side}"] for side in ("", "_back") if f"loss/discriminator{side}" in told]
    return {
        "generator": float(sum(weight * told[term] for term, weight in sums[name].items())),
        "discriminator": float(sum(judges)),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", [{}, {"tuned": True}, {"apart": True}], ids=["plain", "tuned", "apart"])
def test_a_step_of_the_plain_loop_and_one_of_limner_have_the_same_losses_gradients_and_weights(
    method, how, data, batch
):
    limner, told = limner_after_a_step(method, data, batch)
    plain = plain_after_a_step(RECIPES[method], data, batch, **how)
    losses = {player: float(value) for player, value in plain.losses.items()}
    assert losses == pytest.approx(total_losses(method, told), rel=1e-5)
    assert distance(of_plain(plain), moved(limner.optimizers)) < 1e-3


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("fastcut", {"temperature": 0.0707}),
        ("cut", {"temperature": 0.0707}),
        ("cyclegan", {"cycle": 10.1}),
        ("cyclegan", {"identity": 0.51}),
        ("pix2pix", {"reconstruction": 101.0}),
    ],
)
def test_another_number_would_be_seen(method, change, data, batch):
    limner, _ = limner_after_a_step(method, data, batch)
    plain = plain_after_a_step(replace(RECIPES[method], **change), data, batch)
    assert distance(of_plain(plain), moved(limner.optimizers)) > 3e-3


def method_of_row(method, name, data, folder):
    """Before its first step."""
    (row,) = [row for row in style_rows(RECIPES[method], torch.float32) if row.name == name]
    with ExitStack() as stack:
        return row.start(Subject(RECIPES[method], data, folder, CPU, "fp32", 0), stack).run.method


ROWS = [
    (method, row.name)
    for method, recipe in RECIPES.items()
    if method != "cut"  # it is fastcut with two numbers changed
    for row in style_rows(recipe, torch.float32)
    if row.kind == "ablation"
]


@pytest.mark.parametrize(("method", "name"), ROWS)
def test_a_feature_less_computes_the_same(method, name, data, batch, tmp_path):
    found, _ = stepped(method_of_row(method, name, data, tmp_path), batch)
    limner, _ = limner_after_a_step(method, data, batch)
    assert distance(moved(found.optimizers), moved(limner.optimizers)) < 1e-3


@pytest.mark.parametrize(
    ("name", "judged", "translated"),
    [
        ("limner", [8, 4], [4]),
        ("limner, judged apart", [4, 4, 4], [4]),
        ("limner, translated twice", [8, 4], [4, 4]),
    ],
)
@pytest.mark.parametrize("method", ["fastcut"])
def test_a_row_makes_the_passes_that_its_name_says(method, name, judged, translated, data, batch, tmp_path):
    changed = method_of_row(method, name, data, tmp_path)
    seen = {"judged": [], "translated": []}

    def watch(module, kind):
        module.register_forward_pre_hook(lambda _, given: seen[kind].append(len(given[0])))

    watch(changed.networks["discriminator"].layers, "judged")
    watch(changed.networks["generator"].decoder, "translated")
    stepped(changed, batch)
    assert seen == {"judged": judged, "translated": translated}


@pytest.mark.parametrize("method", METHODS)
def test_nchw_holds_throughout_all_networks(method, data, batch):
    networks = build_style(RECIPES[method].settings(), data, CPU, channels_last=False).networks
    seen = []
    for layer in networks.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels > 1 and layer.out_channels > 1:
            layer.register_forward_hook(lambda _, given, result: seen.extend([*given, result]))
    product = networks["generator"].there if method == "cyclegan" else networks["generator"]
    result = product(batch.source.images)
    shown = torch.cat([batch.source.images, result], 1) if method == "pix2pix" else result
    networks["discriminator"](shown)
    assert len(seen) > 10
    assert all(tensor.stride(3) == 1 for tensor in seen if min(tensor.shape[1:]) > 1)


def test_blurring_by_a_convolution_is_the_same():
    features = torch.randn(2, 3, 9, 8)
    assert torch.allclose(blur_by_convolution(features), BlurHalve()(features), atol=1e-6)


def test_places_of_the_plain_loop_are_different_ones_of_all():
    assert sorted(Chance().places(20, 20, CPU).tolist()) == list(range(20))
    assert len(set(Chance().places(20, 5, CPU).tolist())) == 5


def test_limners_chance_is_that_of_its_projection():
    layers = [torch.rand(2, 3, 6, 5), torch.rand(2, 4, 3, 2)]
    _, places = PatchProjection([3, 4], width=4).sample(layers, 8, seeded())
    chance = LimnersChance()
    assert [chance.places(30, 8, CPU).tolist(), chance.places(6, 6, CPU).tolist()] == [p.tolist() for p in places]


def test_a_full_pool_gives_back_what_it_was_given_half_of_the_time():
    pool = Pool(4)
    first = torch.arange(4.0).view(4, 1, 1, 1)
    assert torch.equal(pool.exchange(first), first)
    shown = pool.exchange(torch.arange(4.0, 404.0).view(400, 1, 1, 1)).flatten()
    fresh = (shown == torch.arange(4.0, 404.0)).float().mean()
    assert 0.4 < fresh < 0.6
    assert len(set(shown.tolist())) == 400


@pytest.mark.parametrize("method", ["fastcut", "pix2pix"])
def test_files_are_the_packed_pictures(method, data, batch, tmp_path):
    write_sides(data, tmp_path)
    files = TwoFolders(tmp_path, paired=RECIPES[method].paired)
    assert len(files) == data.split("train", "source").count
    targets = data.split("train", "target").pixels(torch.arange(len(files)).numpy())
    targets = torch.from_numpy(targets).permute(0, 3, 1, 2) / 127.5 - 1
    drawn = [files[index][1] for index in range(8)]
    assert all(((targets - target).abs().amax([1, 2, 3]) < 1e-5).any() for target in drawn)
    same = [torch.allclose(target, targets[index], atol=1e-5) for index, target in enumerate(drawn)]
    assert all(same) == RECIPES[method].paired


@FORKS
def test_the_command_runs_and_writes_what_it_found(tmp_path, capsys):
    words = ["--quick", "--markdown", "--workers", "1", "--json", str(tmp_path / "out/found.json")]
    result = main([*words, "--methods", "fastcut", "--rows", "plain", "plain, tuned", "limner"])
    assert json.loads((tmp_path / "out/found.json").read_text()) == result
    assert result["methods"]["fastcut"]["recipe"]["method"] == "fastcut"
    assert result["machine"]["torch"] == torch.__version__
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1].strip() for line in printed if line.startswith("|")][2:]
    assert rows == ["plain", "plain, tuned", "limner"]


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--rows", "planes"])
    assert "There is no row 'planes'. Rows: plain, plain, passes apart" in capsys.readouterr().err
