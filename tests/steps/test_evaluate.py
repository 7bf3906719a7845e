"""The evaluate step: honest figures, twice the same, and a report that stands alone."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from limner.adapters.untracked import UntrackedRegistry
from limner.card_files import FACTS, PICTURES, SAMPLES
from limner.drift import FILE_NAME as DRIFT_REFERENCE
from limner.errors import LimnerError
from limner.lineage import read_lineage
from limner.packing import PackedDataset
from limner.ports import ModelVersion
from limner.steps.bench import growth_sheet
from limner.steps.evaluate import evaluate
from limner.steps.train import train
from limner.tasks import PictureShape
from limner.trained import save_product
from tests.exports import export_generator


@pytest.fixture(scope="module")
def model(catalog, dataset, tmp_path_factory):
    from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
    from limner.ports import Ports

    place = tmp_path_factory.mktemp("model")
    ports = Ports(UntrackedTracker(), UntrackedRegistry(), lambda *_: None, cache=place / "cache")
    settings = catalog.model("toy")
    return train(
        settings, name="toy", dataset=dataset, output=place / "toy", scratch=place / "runs", ports=ports
    ).output


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run_evaluate(catalog, dataset, model, ports, cache, tmp_path):
    import dataclasses

    def run(output="report", *, of=model, registry=None, **evaluate_settings):
        settings = catalog.model("toy")
        settings = settings.model_copy(
            update={"evaluate": settings.evaluate.model_copy(update={"samples": 200, **evaluate_settings})}
        )
        shared = dataclasses.replace(ports, cache=cache, registry=registry or ports.registry)
        return evaluate(settings, name="toy", dataset=dataset, model=of, output=tmp_path / output, ports=shared)

    return run


def test_metrics_name_their_features_and_their_protocol(run_evaluate, dataset):
    result = run_evaluate()
    document = json.loads((result.output / "metrics.json").read_text())
    assert set(document) == {"protocol", "chosen", "best", "last"}
    assert document["protocol"]["features"] == "classifier"
    assert document["protocol"]["samples"] == "200"
    assert document["protocol"]["reference"] == PackedDataset(dataset).digest
    named = {
        "fd_classifier",
        "kd_classifier",
        "precision_classifier",
        "recall_classifier",
        "sure_share",
        "sure_share_real",
    }
    assert named | {"class_entropy", "copy_share", "within_class_diversity"} <= set(document["best"])
    assert "fid" not in document["best"]
    assert result.metrics == document[document["chosen"]]


def test_the_same_seed_gives_the_same_file_and_another_seed_another(run_evaluate):
    files = [(run_evaluate(o, seed=s).output / "metrics.json").read_bytes() for o, s in (("a", 0), ("b", 0), ("c", 1))]
    assert files[0] == files[1] != files[2]


def test_an_emptied_cache_changes_nothing(run_evaluate, cache, catalog, dataset, model, ports, tmp_path):
    before = (run_evaluate("before").output / "metrics.json").read_bytes()
    for file in cache.iterdir():
        file.unlink()
    assert (run_evaluate("after").output / "metrics.json").read_bytes() == before


def test_unlabelled_features_are_named_by_themselves(run_evaluate):
    metrics = run_evaluate(features="pixels").metrics
    assert "fd_pixels" in metrics
    assert "sure_share" not in metrics
    assert "fd_classifier" not in metrics


def test_the_better_moment_is_chosen_by_the_frechet_distance(run_evaluate, model, tmp_path):
    import shutil

    spoilt = tmp_path / "spoilt"
    shutil.copytree(model, spoilt)
    from limner.trained import open_trained

    product = open_trained(model, device=torch.device("cpu")).product("last")
    with torch.no_grad():
        product.exit.weight.zero_()  # grey pictures
    save_product(spoilt / "last", product)
    result = run_evaluate(of=spoilt)
    document = json.loads((result.output / "metrics.json").read_text())
    assert document["best"]["fd_classifier"] < document["last"]["fd_classifier"]
    assert result.chosen == document["chosen"] == "best"
    assert document["last"]["within_class_diversity"] < 0.01 < document["best"]["within_class_diversity"]


class Pictures(HTMLParser):
    """Collects what a page refers to, and the alternative texts of its pictures."""

    def __init__(self):
        super().__init__()
        self.references, self.alternatives = [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.alternatives.append(attributes.get("alt", ""))


def test_the_report_stands_alone_and_has_words_for_every_picture(run_evaluate):
    text = (run_evaluate().output / "report.html").read_text()
    page = Pictures()
    page.feed(text)
    assert page.references
    assert all(reference.startswith(("data:image/", "#")) for reference in page.references)
    assert len(page.alternatives) >= 4 + 4
    assert all(page.alternatives)
    for title in (
        "Real",
        "Generated",
        "From one latent to another",
        "Cut-off latents",
        "While it learnt",
        "There is no champion of toy yet.",
        "Nearest training pictures",
        "Losses",
        "fd_classifier",
    ):
        assert title in text.replace("<wbr>", "")
    assert not re.search(r"https?://", re.sub(r"data:image/[^\"]*", "", text))


def test_the_lineage_goes_on_from_the_model(run_evaluate, model):
    lineage = read_lineage(run_evaluate().output)
    assert lineage["step"] == "evaluate"
    assert lineage["dataset_digest"] == read_lineage(model)["dataset_digest"]


def test_a_missing_model_and_missing_weights_are_told(run_evaluate, tmp_path):
    with pytest.raises(LimnerError, match="is not a trained model"):
        run_evaluate(of=tmp_path / "none")
    with pytest.raises(LimnerError, match="weights"):
        run_evaluate(features="inception-v3-2015", weights=str(tmp_path / "none.pth"))


# -- what the card and the drift check need ---------------------------------------------------------------------------


def test_what_the_card_and_the_drift_check_need_lies_beside_the_figures(run_evaluate, dataset):
    output = run_evaluate().output
    facts = json.loads((output / PICTURES / FACTS).read_text())
    manifest = PackedDataset(dataset).manifest.domains["pictures"]
    assert facts["counts"] == {"pictures": {name: split.count for name, split in manifest.splits.items()}}
    assert (facts["dataset"], facts["source"], facts["licence"]) == ("shapes", "class-folders", "")
    assert facts["classes"] == ["bar", "dot", "ring"]
    with Image.open(output / PICTURES / SAMPLES) as sheet:
        assert sheet.width >= 640
    assert (output / DRIFT_REFERENCE).stat().st_size > 1000


# -- the champion -----------------------------------------------------------------------------------------------------


class Champion(UntrackedRegistry):
    """A registry that knows one version."""

    def __init__(self, export):
        self.export = export

    def champion(self, name):
        return ModelVersion("toy", "3", ("champion",), {"fd_classifier": 5.0}, {"samples": "1"}, "c" * 64)

    def fetch(self, address, folder):
        return self.export


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    return export_generator(tmp_path_factory.mktemp("champion"))


def test_the_champion_stands_beside_the_candidate_and_changes_no_figure(run_evaluate, champion):
    alone, beside = run_evaluate("alone"), run_evaluate("beside", registry=Champion(champion))
    assert (alone.output / "metrics.json").read_bytes() == (beside.output / "metrics.json").read_bytes()
    text = (beside.output / "report.html").read_text()
    assert "The champion is version 3 of toy." in text
    assert "The same seeds" in text
    assert "samples was 1, is 200" in text


def test_a_champion_of_other_pictures_shows_its_figures_alone(run_evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.exports.PictureShape", lambda *_, classes: PictureShape(1, 32, 32, classes))
    larger = export_generator(tmp_path / "larger")
    text = (run_evaluate(registry=Champion(larger)).output / "report.html").read_text()
    assert "The champion&#39;s pictures are 32x32x1, this model&#39;s 16x16x1." in text
    assert "The same seeds" not in text


# -- while it learnt --------------------------------------------------------------------------------------------------


def write_samples(folder, moments, *, layers=1):
    folder.mkdir(exist_ok=True)
    for number, images in enumerate(moments):
        sheet = np.full((8 * layers, 40), number, np.uint8)
        sheet[:8] += 100 * (layers > 1)
        Image.fromarray(sheet).save(folder / f"{images:09d}.png")
    return folder


def test_each_row_of_the_growth_is_a_moment(tmp_path):
    samples, shape = write_samples(tmp_path / "samples", (500, 20_000, 40_000)), PictureShape(1, 8, 8, 0)
    sheet = growth_sheet(samples, shape=shape, layers=("result",))
    assert list(sheet.rows) == ["500", "20k", "40k"]
    assert sheet.pixels.shape == (24, 40, 1)
    assert sheet.pixels[::8, 0, 0].tolist() == [0, 1, 2]
    assert growth_sheet(tmp_path / "none", shape=shape, layers=("result",)) is None


def test_a_translations_growth_stands_between_its_sources_and_the_truth(tmp_path):
    samples, shape = write_samples(tmp_path / "samples", (10_000, 20_000), layers=3), PictureShape(1, 8, 8, 0)
    sheet = growth_sheet(samples, shape=shape, layers=("source", "result", "truth"))
    assert list(sheet.rows) == ["source", "10k", "20k", "truth"]
    assert sheet.pixels[::8, 0, 0].tolist() == [101, 0, 1, 1]


def test_of_many_moments_each_is_about_half_as_far_as_the_next(tmp_path):
    samples = write_samples(tmp_path / "samples", range(1000, 129_000, 1000))
    sheet = growth_sheet(samples, shape=PictureShape(1, 8, 8, 0), layers=("result",))
    assert list(sheet.rows) == ["1,000", "2,000", "4,000", "8,000", "16k", "32k", "64k", "128k"]
