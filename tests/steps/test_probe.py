"""Whether to train again."""

import json
from dataclasses import replace

import pytest

from limner.adapters.untracked import UntrackedRegistry
from limner.errors import LimnerError
from limner.ports import ModelVersion
from limner.steps.probe import probe

OLD, NEW, HELD = (f"{digit * 32}.dir" for digit in "012")


class Champion(UntrackedRegistry):
    """A registry whose champion was trained on OLD."""

    def champion(self, name):
        return ModelVersion(name, "7", dataset_md5=OLD)

    def trained_on(self, name, dataset_md5):
        known = {OLD: "7", HELD: "8"}
        return ModelVersion(name, known[dataset_md5]) if dataset_md5 in known else None


@pytest.fixture
def ask(catalog, ports):
    def ask(md5, *, registry=None, fine_tune=True):
        changed = replace(ports, registry=registry or Champion())
        return probe(catalog.to_json("toy"), name="toy", dataset_md5=md5, fine_tune=fine_tune, ports=changed)

    return ask


def test_known_data_are_skipped(ask):
    found = ask(OLD)
    assert (found.verdict, found.reason) == ("skip", f"Version 7 was trained on {OLD}.")


def test_new_data_are_trained_on_from_the_champion_by_its_version(ask):
    found = ask(NEW)
    assert found.verdict == "train"
    assert json.loads(found.settings)["models"]["toy"]["train"]["init"] == "models:/toy/7"


def test_new_data_may_be_trained_on_from_nothing(ask, catalog):
    assert ask(NEW, fine_tune=False).settings == catalog.to_json("toy")


def test_without_a_champion_there_is_everything_to_learn(ask, catalog):
    found = ask(NEW, registry=UntrackedRegistry())
    assert (found.verdict, found.settings) == ("train", catalog.to_json("toy"))


def test_data_without_a_name_are_refused(ask):
    with pytest.raises(LimnerError, match="Nothing says which data"):
        ask("")


def test_data_that_a_held_model_has_learnt_from_are_skipped_too(ask):
    found = ask(HELD)
    assert (found.verdict, found.reason) == ("skip", f"Version 8 was trained on {HELD}.")
