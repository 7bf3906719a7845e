"""The champion beside a judged model: a registry that is unwell costs a sentence, never the evaluation."""

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import limner.steps.champion as champion_step
from limner.adapters.untracked import UntrackedRegistry
from limner.errors import LimnerError
from limner.ports import ModelVersion
from limner.report import Sheet
from limner.steps.champion import beside_champion

VERSION = ModelVersion("digits", "3", ("champion",), {"fid": 2.0}, {"samples": "2000"}, "c" * 64)
SHEET = Sheet("The same seeds", "Bands of pictures.", np.zeros((8, 8, 1), np.uint8))
JUDGED = SimpleNamespace(evaluation=SimpleNamespace(protocol={"samples": "2000"}))


class Registry(UntrackedRegistry):
    """Answers with a version or by raising what it was given."""

    def __init__(self, version=VERSION, fetched=None):
        self.version, self.fetched, self.addresses = version, fetched, []

    def champion(self, name):
        if isinstance(self.version, Exception):
            raise self.version
        return self.version

    def fetch(self, address, folder):
        self.addresses.append(address)
        if isinstance(self.fetched, Exception):
            raise self.fetched
        return folder


class Bench:
    """Draws a sheet, or raises."""

    def __init__(self, problem=None):
        self.problem = problem

    def beside(self, judged, which, champion):
        if self.problem:
            raise self.problem
        return SHEET


def ask(registry, *, digest="d" * 64, bench=None, judged=JUDGED):
    return beside_champion("digits", judged, "best", digest=digest, bench=bench or Bench(), registry=registry)


def test_the_champion_comes_with_its_figures_and_its_pictures():
    registry = Registry()
    rival, note = ask(registry)
    assert (rival.title, rival.metrics, list(rival.sheets), note) == ("version 3 of digits", {"fid": 2.0}, [SHEET], "")
    assert not rival.unlike
    assert not rival.same_weights
    assert registry.addresses == ["models:/digits/3"]


def test_without_a_champion_it_says_so():
    assert ask(Registry(None)) == (None, "There is no champion of digits yet.")


def test_the_same_weights_are_said_and_not_fetched():
    registry = Registry()
    rival, _ = ask(registry, digest=VERSION.export_digest)
    assert rival.same_weights
    assert registry.addresses == []


def test_what_was_judged_otherwise_is_told():
    judged = SimpleNamespace(evaluation=SimpleNamespace(protocol={"samples": "500"}))
    rival, _ = ask(Registry(), judged=judged)
    assert rival.unlike == ["samples was 2000, is 500"]
    by_hand = dataclasses.replace(VERSION, metrics={}, protocol={}, export_digest="")
    rival, _ = ask(Registry(by_hand))
    assert not rival.unlike
    assert "No figures are recorded for it." in rival.notes


@pytest.mark.parametrize(
    "problem", [LimnerError("The server is away.", why="It sleeps."), RuntimeError("no such host")]
)
def test_a_registry_that_fails_costs_a_sentence(problem):
    rival, note = ask(Registry(problem))
    assert rival is None
    assert note.startswith("It was not compared with a champion: ")
    assert ("The server is away." if isinstance(problem, LimnerError) else "RuntimeError") in note


@pytest.mark.parametrize("kind", [LimnerError, RuntimeError])
def test_no_password_of_an_address_gets_into_the_report(kind):
    """What a client says has the address in it; of an error of ours that stands in the reason."""
    said = "Max retries exceeded: https://someone:secret@mlflow.example/api"
    problem = LimnerError("The server is away.", why=said) if kind is LimnerError else kind(said)
    _, note = ask(Registry(problem))
    found, _ = ask(Registry(fetched=problem))
    assert "secret" not in note + "".join(found.notes)
    assert "mlflow.example" not in note + "".join(found.notes)


@pytest.mark.parametrize("problem", [LimnerError("The server is away."), OSError("the disk is full")])
def test_a_champion_that_cannot_be_had_keeps_its_figures(problem):
    for found, _ in (ask(Registry(fetched=problem)), ask(Registry(), bench=Bench(LimnerError(str(problem))))):
        assert found.metrics == {"fid": 2.0}
        assert not found.sheets
        assert "Its pictures are not here: " in found.notes[0]


def test_a_registry_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(champion_step, "ASK_SECONDS", 0.05)
    asleep = threading.Event()

    class Silent(Registry):
        def champion(self, name):
            asleep.wait(30)
            return VERSION

    rival, note = ask(Silent())
    asleep.set()
    assert rival is None
    assert "did not answer within 0.05 seconds" in note
