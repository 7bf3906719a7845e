"""The evaluate step on translations: any method whose task says so, judged on held-out sources."""

import json
import shutil
import sys

import pytest
import torch

import limner.methods
from limner.adapters.untracked import UntrackedRegistry
from limner.errors import LimnerError
from limner.lineage import write_lineage
from limner.methods import load_method
from limner.packing import PackedDataset
from limner.params import Catalog
from limner.ports import ModelVersion
from limner.quick_judging import open_quick_judging
from limner.settings import EvaluateSettings
from limner.steps.evaluate import evaluate
from limner.tasks import PictureShape
from limner.trained import draw, open_trained, save_config, save_product
from tests.packed import pack, quiet_ports
from tests.translators import export_translator
from tests.two_domains import CLASSES, handwritten, printed

CPU = torch.device("cpu")

METHOD = '''
"""Changes brightness and contrast."""

from typing import Literal

import torch
from torch import nn

from limner.settings import MethodSettings


class Params(MethodSettings):
    name: Literal["NAME"]


class Tone(nn.Module):
    def __init__(self):
        super().__init__()
        self.contrast = nn.Parameter(torch.ones(()))
        self.brightness = nn.Parameter(torch.zeros(()))

    def forward(self, source):
        return self.contrast * source + self.brightness

    WAY_BACK


class Method:
    task: Literal["TASK"] = "TASK"

    def __init__(self, params, shape):
        self.networks = nn.ModuleDict({"tone": Tone()})

    def product(self):
        return self.networks["tone"]

    def product_inputs(self, batch, rng):
        return {"source": batch.source.images}
'''
BACK = """def back(self, target):
        return (target - self.brightness) / self.contrast"""
METHODS = {"tone": ("unpaired", "pass"), "tone_both_ways": ("unpaired", BACK), "tone_of_pairs": ("paired", "pass")}
DATASET = {"source": {"kind": "printed-digits"}, "image": {"size": 32}}
"""Has to be described for the model to be; what is used is packed."""
SAME, NEGATIVE, GREY, DIMMED = (1.0, 0.0), (-1.0, 0.0), (0.0, 0.0), (0.5, -0.5)
"""Contrast and brightness in [-1, 1]."""


@pytest.fixture(autouse=True)
def _methods(tmp_path, monkeypatch):
    folder = tmp_path / "more_methods"
    folder.mkdir()
    for name, (task, back) in METHODS.items():
        text = METHOD.replace("NAME", name).replace("TASK", task).replace("WAY_BACK", back)
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(limner.methods, "__path__", [*limner.methods.__path__, str(folder)])
    yield
    for name in METHODS:
        sys.modules.pop(f"limner.methods.{name}", None)
        vars(limner.methods).pop(name, None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory):
    (prints, digits), (hands, classes) = printed(150), handwritten()
    domains = {
        "source": {"train": (prints[:100], digits[:100]), "validation": (prints[100:], digits[100:])},
        "target": {"train": (hands[:300], classes[:300]), "validation": (hands[300:340], classes[300:340])},
    }
    folder = tmp_path_factory.mktemp("data") / "print-to-hand"
    pack(folder, domains, classes=CLASSES)
    return folder


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """The truth is the source, dimmed."""
    prints, _ = printed(150)
    domains = {
        "source": {"train": (prints[:100], None), "validation": (prints[100:], None)},
        "target": {"train": (prints[:100] // 2, None), "validation": (prints[100:] // 2, None)},
    }
    folder = tmp_path_factory.mktemp("data") / "dimmed"
    pack(folder, domains, task="paired")
    return folder


@pytest.fixture
def judge(tmp_path, ports, cache):
    """Evaluate a model with these tones at its best and its last moment."""
    import dataclasses

    def run(name, dataset, *, best, last, output="report", registry=None, **settings):
        packed, model = PackedDataset(dataset), tmp_path / "model"
        params = load_method(name).params(name=name)
        shutil.rmtree(model, ignore_errors=True)
        model.mkdir()
        save_config(model, params, PictureShape(1, 32, 32, len(packed.classes())), packed.classes())
        for which, tone in (("best", best), ("last", last)):
            product = load_method(name).build(params, PictureShape(1, 32, 32, 0)).product()
            with torch.no_grad():
                product.contrast.fill_(tone[0])
                product.brightness.fill_(tone[1])
            save_product(model / which, product)
        (model / "curves.csv").write_text("images\n")
        write_lineage(model, {"step": "train", "model": "toy", "run_id": "", "dataset_digest": packed.digest})
        raw = {"dataset": "d", "method": {"name": name}, "train": {"kimg": 1}, "evaluate": {"samples": 40, **settings}}
        catalog = Catalog(
            {"datasets": {"d": DATASET}, "models": {"toy": raw}},
            origin="params.yaml",
            method_settings=lambda wanted: load_method(wanted).params,
        )
        return evaluate(
            catalog.model("toy"), name="toy", dataset=dataset, model=model, output=tmp_path / output,
            ports=dataclasses.replace(ports, cache=cache, registry=registry or ports.registry),
        )  # fmt: skip

    return run


def document(result):
    return json.loads((result.output / "metrics.json").read_text())


def test_an_unpaired_method_is_chosen_by_its_distance_to_the_target(judge, unpaired):
    result = judge("tone", unpaired, best=NEGATIVE, last=SAME)
    found = document(result)
    assert result.chosen == found["chosen"] == "last"
    assert found["last"]["fd_classifier"] < found["best"]["fd_classifier"]
    assert found["last"]["fd_classifier_ratio"] == 1
    assert found["last"]["identity_share"] == found["best"]["inverted_share"] == 1
    assert found["protocol"]["source_split"] == "validation"
    assert found["protocol"]["sources"] == found["protocol"]["samples"] == "40"
    assert found["protocol"]["reference_pictures"] == "300"
    assert result.metrics == found["last"]


def test_a_method_of_pairs_is_chosen_by_its_error(judge, paired):
    result = judge("tone_of_pairs", paired, best=DIMMED, last=GREY)
    found = document(result)
    assert result.chosen == "best"
    assert found["best"]["l1"] < 0.01 < found["best"]["l1_identity"] < found["last"]["l1"]
    assert found["best"]["l1_ratio"] < 0.05
    assert found["protocol"]["task"] == "paired"


def test_where_error_and_distance_disagree_pairs_are_for_the_error(judge, tmp_path):
    prints, _ = printed(150)
    domains = {
        "source": {"train": (prints[:100], None), "validation": (prints[100:], None)},
        "target": {"train": (prints[:100] // 2, None), "validation": (prints[100:], None)},  # not like the others
    }
    pack(tmp_path / "contrary", domains, task="paired")
    for name, chosen in (("tone_of_pairs", "last"), ("tone", "best")):
        found = document(judge(name, tmp_path / "contrary", best=DIMMED, last=SAME))
        assert found["last"]["l1"] < found["best"]["l1"]
        assert found["last"]["fd_pixels"] > found["best"]["fd_pixels"]
        assert found["chosen"] == chosen


def test_an_unpaired_method_on_pairs_is_judged_by_the_truth_too_but_not_chosen_by_it(judge, paired):
    found = document(judge("tone", paired, best=DIMMED, last=SAME))
    assert found["best"]["l1_ratio"] < 0.05
    assert found["last"]["l1_ratio"] == 1
    assert found["chosen"] == min(("best", "last"), key=lambda which: found[which]["fd_pixels"])


def test_the_same_seed_gives_the_same_file_and_an_emptied_cache_changes_nothing(judge, unpaired, cache):
    first = (judge("tone", unpaired, best=DIMMED, last=SAME, output="a").output / "metrics.json").read_bytes()
    for file in cache.iterdir():
        file.unlink()
    assert (judge("tone", unpaired, best=DIMMED, last=SAME, output="b").output / "metrics.json").read_bytes() == first


def test_the_report_shows_before_and_after_and_says_what_went_wrong(judge, unpaired, paired):
    text = (judge("tone", unpaired, best=SAME, last=SAME).output / "report.html").read_text()
    for words in ("Before and after", "None is chosen", "Columns: 0, 1, 2", "Target", "Nearest training pictures",
                  "untouched sources", "hardly differ from their sources", "There is no checkerboard"):  # fmt: skip
        assert words in text
    assert "below these the truth" not in text
    assert "There and back" not in text
    text = (judge("tone_of_pairs", paired, best=SAME, last=SAME).output / "report.html").read_text()
    assert "below these the truth" in text
    assert "mean difference to the truth" in text


def test_a_product_that_knows_the_way_back_is_judged_by_it(judge, unpaired):
    result = judge("tone_both_ways", unpaired, best=DIMMED, last=DIMMED)
    assert 0 < result.metrics["cycle_l1"] < 0.01  # bytes in between
    text = (result.output / "report.html").read_text()
    assert "There and back" in text
    assert "The other direction" in text


def test_a_dataset_of_one_set_is_refused(judge, dataset):
    with pytest.raises(LimnerError, match="needs a dataset of the kind 'unpaired'"):
        judge("tone", dataset, best=SAME, last=SAME)


@pytest.mark.parametrize(
    ("task", "which", "split", "first"),
    [
        ("unpaired", "unpaired", "train", "fd_classifier"),
        ("unpaired", "paired", "train", "fd_pixels"),
        ("paired", "paired", "validation", "l1"),
    ],
)
def test_while_it_trains_a_translation_is_judged_by_what_chooses_in_the_end(
    unpaired, paired, cache, task, which, split, first
):
    packed = PackedDataset({"unpaired": unpaired, "paired": paired}[which])
    quick = open_quick_judging(
        EvaluateSettings(judge_samples=30), packed, task=task, device=CPU, ports=quiet_ports(cache)
    )
    method = load_method({"unpaired": "tone", "paired": "tone_of_pairs"}[task]).build(None, None)
    found = quick.judge(draw(method, method.product(), quick.batches, seed=0))
    assert next(iter(found)) == first
    assert found["change"] == 0
    images = torch.cat([batch.source.images for batch in quick.batches])
    assert len(images) == 30
    here = torch.from_numpy(packed.split(split, "source").pixels(range(packed.split(split, "source").count)))
    here = here.permute(0, 3, 1, 2)
    assert all((here == ((image + 1) * 127.5).round().byte()).flatten(1).all(1).any() for image in images)


def test_while_it_trains_a_generator_is_judged_as_before(dataset, trained_folder, cache):
    packed = PackedDataset(dataset)
    quick = open_quick_judging(
        EvaluateSettings(judge_samples=30), packed, task="pictures", device=CPU, ports=quiet_ports(cache)
    )
    trained = open_trained(trained_folder, device=CPU)
    found = quick.judge(draw(trained.method, trained.product("last"), quick.batches, seed=0))
    assert list(found) == ["fd_classifier", "sure_share"]


class Champion(UntrackedRegistry):
    """A registry that knows one version."""

    def __init__(self, export):
        self.export = export

    def champion(self, name):
        return ModelVersion("toy", "3", ("champion",), {"fd_classifier": 5.0}, {}, "c" * 64)

    def fetch(self, address, folder):
        return self.export


def test_the_champion_translates_the_same_sources(judge, unpaired, tmp_path):
    alone = judge("tone", unpaired, best=DIMMED, last=SAME, output="alone")
    champion = Champion(export_translator(tmp_path / "champion", channels=1))
    beside = judge("tone", unpaired, best=DIMMED, last=SAME, output="beside", registry=champion)
    assert (alone.output / "metrics.json").read_bytes() == (beside.output / "metrics.json").read_bytes()
    assert "The same sources" in (beside.output / "report.html").read_text()
    facts = json.loads((beside.output / "card" / "facts.json").read_text())
    assert set(facts["counts"]) == {"source", "target"}
    assert "Bands of pictures: sources, and below them their results." in facts["samples"]
