"""The evaluate step: honest figures, twice the same, and a report that stands alone."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch

from limner.errors import LimnerError
from limner.lineage import read_lineage
from limner.packing import PackedDataset
from limner.steps.evaluate import evaluate
from limner.steps.train import train
from limner.trained import save_product


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

    def run(output="report", *, of=model, **evaluate_settings):
        settings = catalog.model("toy")
        settings = settings.model_copy(
            update={"evaluate": settings.evaluate.model_copy(update={"samples": 200, **evaluate_settings})}
        )
        shared = dataclasses.replace(ports, cache=cache)
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
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert len(page.alternatives) >= 4 + 4
    assert all(page.alternatives)
    for title in (
        "Real",
        "Generated",
        "From one latent to another",
        "Nearest training pictures",
        "Losses",
        "fd_classifier",
    ):
        assert title in text
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
