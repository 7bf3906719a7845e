"""A model by its folder, by an alias, or by its version; and what is said where there is none."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from limner.adapters.untracked import UntrackedRegistry
from limner.errors import LimnerError
from limner.inference import open_model
from limner.lineage import file_sha256
from limner.ports import ModelVersion
from limner.steps.find_export import find_export
from tests.exports import export_generator


class ShelfRegistry(UntrackedRegistry):
    """Versions of a model that lie in folders, and how often one was fetched."""

    def __init__(self, versions, folders):
        self._versions, self._folders, self.fetched = versions, folders, []

    def versions(self, name):
        return tuple(version for version in self._versions if version.name == name)

    def fetch(self, address, folder):
        self.fetched.append(address)
        return shutil.copytree(self._folders[address], Path(folder) / "artifacts" / "export")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_generator(tmp_path_factory.mktemp("exported"), formats=())


@pytest.fixture
def registry(exported, tmp_path):
    """Two versions: the first is the champion; the second has other weights."""
    other = shutil.copytree(exported, tmp_path / "other")
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)
    config = json.loads((other / "config.json").read_text())
    config["files"]["model.safetensors"] = file_sha256(other / "model.safetensors")
    (other / "config.json").write_text(json.dumps(config))
    digests = [file_sha256(folder / "model.safetensors") for folder in (exported, other)]
    versions = [
        ModelVersion("toy", "2", ("challenger",), export_digest=digests[1]),
        ModelVersion("toy", "1", ("champion",), export_digest=digests[0]),
    ]
    return ShelfRegistry(versions, {"models:/toy/1": exported, "models:/toy/2": other})


def not_asked():
    pytest.fail("the registry is none of its business")


def test_a_folder_is_found_without_asking_the_registry(exported, tmp_path):
    assert find_export(str(exported), registry=not_asked, cache=tmp_path) == exported


def test_a_version_is_fetched_once_and_taken_from_the_cache_from_then_on(registry, exported, tmp_path):
    found = [
        find_export(address, registry=registry, cache=tmp_path / "cache")
        for address in ("models:/toy/1", "models:/toy@champion", "models:/toy/1")
    ]
    assert len(set(found)) == 1
    assert found[0].is_relative_to(tmp_path / "cache")
    assert registry.fetched == ["models:/toy/1"]
    names = {path.name for path in exported.iterdir()}
    assert {path.name for path in found[0].iterdir()} == names
    assert {path.name for path in found[0].parent.iterdir()} == {found[0].name}  # nothing is left of the transport


def test_an_alias_that_has_moved_names_the_other_version(registry, tmp_path):
    first = find_export("models:/toy@champion", registry=registry, cache=tmp_path)
    registry._versions = [
        ModelVersion("toy", "2", ("champion",), export_digest=registry._versions[0].export_digest),
        ModelVersion("toy", "1", (), export_digest=registry._versions[1].export_digest),
    ]
    second = find_export("models:/toy@champion", registry=registry, cache=tmp_path)
    assert file_sha256(first / "model.safetensors") != file_sha256(second / "model.safetensors")
    assert registry.fetched == ["models:/toy/1", "models:/toy/2"]


def test_the_same_number_on_another_server_is_another_model(registry, tmp_path):
    first = find_export("models:/toy/1", registry=registry, cache=tmp_path)
    elsewhere = ShelfRegistry(
        [ModelVersion("toy", "1", (), export_digest=registry._versions[0].export_digest)],
        {"models:/toy/1": registry._folders["models:/toy/2"]},
    )
    assert find_export("models:/toy/1", registry=elsewhere, cache=tmp_path) != first


@pytest.mark.parametrize("digest", ["/../../../../../", "..", "", "a" * 63, "a" * 64 + "/.."])
def test_a_digest_that_is_none_is_no_part_of_a_path(registry, tmp_path, digest):
    project = tmp_path / "project"
    (project / "runs" / "cache").mkdir(parents=True)
    (project / "params.yaml").write_text("mine")
    registry._versions[1] = replace(registry._versions[1], export_digest=digest)
    with pytest.raises(LimnerError, match="no model that Limner has exported"):
        find_export("models:/toy@champion", registry=registry, cache=project / "runs" / "cache")
    assert not registry.fetched
    assert {path.name for path in project.iterdir()} == {"params.yaml", "runs"}


@pytest.mark.parametrize("forge", [False, True], ids=["changed", "changed, and its hash with it"])
def test_a_cached_model_that_was_tampered_with_is_refused(registry, tmp_path, forge):
    found = find_export("models:/toy@champion", registry=registry, cache=tmp_path)
    weights = found / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    if forge:
        config = json.loads((found / "config.json").read_text())
        config["files"]["model.safetensors"] = file_sha256(weights)
        (found / "config.json").write_text(json.dumps(config))
    said = "does not have the weights that were registered" if forge else "was changed since it was exported"
    with pytest.raises(LimnerError, match=said):
        find_export("models:/toy@champion", registry=registry, cache=tmp_path)


def test_a_fetch_that_fails_leaves_nothing_that_looks_like_a_model(registry, tmp_path):
    registry._folders = {}
    with pytest.raises(KeyError, match="models:/toy/1"):
        find_export("models:/toy/1", registry=registry, cache=tmp_path)
    assert not list((tmp_path / "exports" / "toy").iterdir())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "models:/toy@chmapion",
            r"has no alias 'chmapion'.*\n.*Did you mean 'champion'\? There is: challenger, champion",
        ),
        ("models:/toy/7", r"has no version 7.*\n.*There is: 1, 2"),
        ("models:/nobody@champion", r"no model 'nobody'.*\n.*limner promote MODEL"),
        ("models:/toy", r"no address.*\n.*models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/toy@champion/1", "no address"),
        ("models:/toy/latest", "no address"),
        ("models:/../toy/1", "no address"),
        ("models:/../1", "no address"),
        ("models:/..@champion", "no address"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(registry, tmp_path, address, message):
    with pytest.raises(LimnerError, match=message):
        find_export(address, registry=registry, cache=tmp_path)
    assert not registry.fetched


@pytest.mark.parametrize(
    ("word", "meant"),
    [("digits-gan", "digits-gan"), ("models/digits-gan", "digits-gan"), ("exports/digit-gan", "digits-gan")],
)
def test_a_folder_that_is_missing_is_told_with_the_one_that_was_meant(exported, tmp_path, monkeypatch, word, meant):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported, Path("exports", meant))
    with pytest.raises(LimnerError, match=rf"(?s)no exported model at {word}.*Did you mean 'exports/{meant}'"):
        find_export(word, registry=not_asked, cache=tmp_path)


def test_without_any_export_the_way_to_one_is_told(tmp_path):
    with pytest.raises(LimnerError, match=r"(?s)no exported model at x.*limner export MODEL.*models:/NAME@champion"):
        find_export("x", registry=not_asked, cache=tmp_path)


def test_what_was_found_can_be_opened_no_further_than_its_files(registry, tmp_path):
    found = find_export("models:/toy/1", registry=registry, cache=tmp_path)
    with pytest.raises(LimnerError, match=r"has no model\.pt2"):
        open_model(found)
