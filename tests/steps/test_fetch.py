"""A dataset that DVC has stored comes as it is where it was made: packed already, or packed here of its pictures."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from kfp import dsl

from limner.adapters.dvc_cache import DvcCache, publish
from limner.adapters.object_store import S3Store
from limner.cli.app import app
from limner.errors import LimnerError
from limner.lineage import directory_md5, read_lineage
from limner.packing import PackedDataset
from limner.settings import DatasetSettings
from limner.steps.fetch import fetch
from limner.steps.prepare import prepare
from tests import dvc_stand, s3_stand
from tests.picture_folders import fill

DOMAINS = {
    "kind": "unpaired",
    "source": {"kind": "folder", "path": "./data/raw/two/../two/source"},
    "target": {"kind": "folder", "path": "data/raw/two/target"},
}
SOURCES = {
    "folder": ("data/raw/monet", {"kind": "folder", "path": "data/raw/monet"}),
    "below": ("data/raw/two/", {"kind": "folder", "path": "data/raw/two/target/"}),
    "list": ("data/raw/two", {"kind": "folder", "path": ["data/raw/two/target", "data/raw/two/source"]}),
    "domains": ("data/raw/two", DOMAINS),
    "archive": ("data/raw/monet.tar", {"kind": "folder", "path": "data/raw/monet.tar"}),
    "partly": ("data/raw/monet", DOMAINS | {"source": {"kind": "printed-digits", "count": 20}}
               | {"target": {"kind": "folder", "path": "data/raw/monet"}}),
}  # fmt: skip
"""Kinds of sources: where DVC has the pictures, and what the settings say."""


def described(source, **more):
    return DatasetSettings.model_validate({"source": source, "image": {"size": 16}, "validation": 0.25} | more)


MONET = described({"kind": "folder", "path": "data/raw/monet"}, licence="CC0-1.0")


def bytes_of(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lineage.json"
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A repository whose data DVC has pushed: .root, .md5 of each place, .remote, .environment."""
    root = tmp_path_factory.mktemp("repository")
    fill(root / "data" / "raw" / "monet", 12)
    fill(root / "data" / "raw" / "two" / "source", 8, seed=1)
    fill(root / "data" / "raw" / "two" / "target", 8, seed=2)
    with tarfile.open(root / "data" / "raw" / "monet.tar", "w") as tar:
        tar.add(root / "data" / "raw" / "monet", "monet")
    with pytest.MonkeyPatch.context() as monkeypatch, s3_stand.server() as address:
        monkeypatch.chdir(root)
        prepare(MONET, name="monet", output=Path("data/prepared/monet"))
        shutil.copytree("data/prepared/monet", "data/prepared/damaged")
        shard = Path("data/prepared/damaged/pictures/train-00000.raw")
        shard.write_bytes(b"\0" + shard.read_bytes()[1:])
        remote = f"s3://{s3_stand.bucket(monkeypatch, address)}/dvc"
        prepared = ("data/prepared/monet", "data/prepared/damaged")
        md5s = dvc_stand.push(root, *prepared, *("data/raw/monet", "data/raw/two", "data/raw/monet.tar"), remote=remote)
        environment = s3_stand.SETTINGS | {"AWS_ENDPOINT_URL": address}
        yield SimpleNamespace(root=root, md5=md5s, remote=remote, environment=environment, store=S3Store(remote))


@pytest.fixture
def contents(stored, tmp_path):
    """The remote, seen from another machine."""
    return DvcCache(stored.store, tmp_path / "cache")


# -- packed already ---------------------------------------------------------------------------------------------------


def test_a_packed_dataset_comes_as_it_was_prepared(stored, contents, tmp_path):
    md5 = stored.md5["data/prepared/monet"]
    result = fetch(MONET, name="monet", md5=md5, place="", contents=contents, output=tmp_path / "out")
    there = stored.root / "data" / "prepared" / "monet"
    assert md5 == directory_md5(there)
    assert bytes_of(tmp_path / "out") == bytes_of(there)
    assert directory_md5(tmp_path / "out") == md5, "it is what DVC knows, to the last file"
    assert directory_md5(there) == md5, "the lineage is not written through the cache into what others have of it"
    again = prepare_again(stored, tmp_path)
    assert (result.digest, result.counts, result.rejected) == (again.digest, again.counts, again.rejected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "cache", "out"]


def prepare_again(stored, tmp_path):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(stored.root)
        return prepare(MONET, name="monet", output=tmp_path / "again")


def test_a_second_fetch_gives_the_same_and_the_cache_stays_whole(stored, contents, tmp_path):
    md5 = stored.md5["data/prepared/monet"]
    for _ in range(2):
        fetch(MONET, name="monet", md5=md5, place="", contents=contents, output=tmp_path / "out")
    contents.fetch(md5, tmp_path / "raw")
    assert directory_md5(tmp_path / "raw") == md5


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"image": {"size": 32}}, "image.size is 16 there and 32 here"),
        ({"validation": 0.1}, "validation is 0.25 there and 0.1 here"),
        ({"licence": "other"}, "licence is 'CC0-1.0' there and 'other' here"),
        ({"source": {"kind": "folder", "path": "data/raw/manet"}}, "source.path is 'monet' there and 'manet' here"),
        ({"source": {"kind": "mnist5k"}}, "source.kind is 'folder' there and 'mnist5k' here"),
    ],
)
def test_what_was_prepared_with_other_settings_is_refused_with_the_difference(
    stored, contents, tmp_path, changes, difference
):
    settings = DatasetSettings.model_validate(MONET.model_dump() | changes)
    with pytest.raises(LimnerError, match=rf"(?s)other settings than those of datasets.monet.*{difference}.*dvc.lock"):
        fetch(
            settings,
            name="monet",
            md5=stored.md5["data/prepared/monet"],
            place="",
            contents=contents,
            output=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_settings_that_have_come_since_count_by_their_default(stored, contents, tmp_path):
    class Older:
        """A remote whose dataset was prepared before there was `shard_mib`."""

        def fetch(self, md5, path):
            contents.fetch(md5, path)
            manifest = json.loads((path / "manifest.json").read_text())
            del manifest["settings"]["shard_mib"]
            (path / "manifest.json").unlink()
            (path / "manifest.json").write_text(json.dumps(manifest))

    md5 = stored.md5["data/prepared/monet"]
    fetch(MONET, name="monet", md5=md5, place="", contents=Older(), output=tmp_path / "out")
    settings = DatasetSettings.model_validate(MONET.model_dump() | {"shard_mib": 1})
    with pytest.raises(LimnerError, match="shard_mib is 64 there and 1 here"):
        fetch(settings, name="monet", md5=md5, place="", contents=Older(), output=tmp_path / "out")


def test_a_packed_dataset_that_is_damaged_is_refused_and_the_output_stays(stored, contents, tmp_path):
    good, bad = stored.md5["data/prepared/monet"], stored.md5["data/prepared/damaged"]
    fetch(MONET, name="monet", md5=good, place="", contents=contents, output=tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    with pytest.raises(LimnerError, match=r"(?s)no packed dataset.*damaged: pictures/train-00000.raw.*SHA-256 differs"):
        fetch(MONET, name="monet", md5=bad, place="", contents=contents, output=tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


@pytest.mark.parametrize(
    ("what", "why"), [("data/raw/monet", "manifest.json cannot be read"), ("data/raw/monet.tar", "a single file")]
)
def test_pictures_without_their_place_are_no_packed_dataset(stored, contents, tmp_path, what, why):
    with pytest.raises(LimnerError, match=rf"(?s)no packed dataset.*{why}.*say too where the repository has them"):
        fetch(MONET, name="monet", md5=stored.md5[what], place="", contents=contents, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOURCES)
def test_pictures_are_prepared_as_they_would_be_where_they_are_from(stored, contents, tmp_path, monkeypatch, kind):
    place, source = SOURCES[kind]
    settings, md5 = described(source), stored.md5[place.rstrip("/")]
    result = fetch(settings, name="x", md5=md5, place=place, contents=contents, output=tmp_path / "out")
    monkeypatch.chdir(stored.root)
    local = prepare(settings, name="x", output=tmp_path / "local")
    assert result.digest == local.digest
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "local")
    here, there = (PackedDataset(tmp_path / name, verify=True).manifest for name in ("out", "local"))
    assert here == there  # settings and fingerprints among the rest
    told = read_lineage(tmp_path / "out")
    assert told == read_lineage(tmp_path / "local") | {"dataset_md5": md5, "dataset_place": place.rstrip("/")}
    assert (result.counts, result.rejected, result.output) == (local.counts, local.rejected, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "local", "out"]


@pytest.mark.parametrize("place", ["/data/raw", "../raw", "data/../..", ".", "./"])
def test_what_is_no_place_in_a_repository_is_refused(stored, contents, tmp_path, place):
    with pytest.raises(LimnerError, match=r"(?s)is no place in a repository.*data/raw"):
        fetch(MONET, name="x", md5="0" * 32, place=place, contents=contents, output=tmp_path / "out")


@pytest.mark.parametrize("place", ["data/raw/other", "data/raw/mone", "data/raw/monet/deeper"])
def test_a_place_that_the_source_does_not_read_is_refused(stored, contents, tmp_path, place):
    with pytest.raises(LimnerError, match=rf"(?s)reads nothing of {place}"):
        fetch(MONET, name="x", md5="0" * 32, place=place, contents=contents, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_is_lost_leaves_the_output_as_it_was(stored, contents, tmp_path):
    place = "data/raw/monet"
    fetch(MONET, name="x", md5=stored.md5[place], place=place, contents=contents, output=tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    with pytest.raises(LimnerError, match="does not have"):
        fetch(MONET, name="x", md5="0" * 32 + ".dir", place=place, contents=contents, output=tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


def test_an_output_that_is_something_else_is_not_replaced(stored, contents, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear diary")
    for place, md5 in (("", stored.md5["data/prepared/monet"]), ("data/raw/monet", stored.md5["data/raw/monet"])):
        with pytest.raises(LimnerError, match="is not empty and is no packed dataset"):
            fetch(MONET, name="x", md5=md5, place=place, contents=contents, output=tmp_path / "out")
    assert (tmp_path / "out" / "diary.txt").read_text() == "dear diary"


# -- the shells -------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings_json():
    method = {"name": "gan", "generator": {"name": "dcgan"}, "discriminator": {"name": "dcgan"}}
    model = {"dataset": "monet", "method": method, "train": {"kimg": 1}}
    return json.dumps({"datasets": {"monet": MONET.model_dump(mode="json")}, "models": {"painter": model}})


def test_the_component_fetches_what_its_md5_or_its_pointer_names(stored, tmp_path, monkeypatch, settings_json):
    from components.prepare import prepare as component

    for name, value in (stored.environment | {"LIMNER_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    md5, raw = stored.md5["data/prepared/monet"], stored.md5["data/raw/monet"]
    pointer = stored.remote.removesuffix("/dvc") + "/monet.md5"
    publish(md5, pointer)
    digest = PackedDataset(stored.root / "data/prepared/monet").digest
    for name, place, found in ((md5, "", md5), (pointer, "", md5), (raw, "data/raw/monet", raw)):
        dataset = dsl.Dataset(uri=str(tmp_path / "kubeflow"))
        component.python_func(
            model="painter",
            settings=settings_json,
            dataset_md5=name,
            remote=stored.remote,
            dataset_path=place,
            dataset=dataset,
        )
        assert dataset.metadata == {"name": "monet", "digest": digest, "dataset_md5": found}
        assert PackedDataset(Path(dataset.path), verify=True).digest == digest


def test_the_component_without_an_md5_reads_the_source(stored, tmp_path, monkeypatch, settings_json):
    from components.prepare import prepare as component

    monkeypatch.chdir(stored.root)
    dataset = dsl.Dataset(uri=str(tmp_path / "kubeflow"))
    component.python_func(
        model="painter", settings=settings_json, dataset_md5="", remote="", dataset_path="", dataset=dataset
    )
    digest = PackedDataset(stored.root / "data/prepared/monet").digest
    assert dataset.metadata == {"name": "monet", "digest": digest, "dataset_md5": ""}


def test_the_command_does_what_the_step_does(stored, tmp_path, monkeypatch, capsys):
    for name, value in (stored.environment | {"LIMNER_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "params.json").write_text(json.dumps({"datasets": {"monet": MONET.model_dump(mode="json")}}))
    digest = PackedDataset(stored.root / "data/prepared/monet").digest
    for place, md5 in (("", stored.md5["data/prepared/monet"]), ("data/raw/monet", stored.md5["data/raw/monet"])):
        words = ["prepare", "monet", "--params", str(tmp_path / "params.json"), "--output", str(tmp_path / "out")]
        words += ["--md5", md5, "--remote", stored.remote, *(["--place", place] if place else []), "--json"]
        typer.main.get_command(app).main(words, prog_name="limner", standalone_mode=False)
        assert json.loads(capsys.readouterr().out)["digest"] == digest
        if place:
            assert read_lineage(tmp_path / "out")["dataset_md5"] == md5
        else:
            assert directory_md5(tmp_path / "out") == md5


@pytest.mark.parametrize(
    "words", [["--md5", "0" * 32], ["--remote", "s3://bucket"], ["--place", "data/raw"], ["--md5=", "--place", "x"]]
)
def test_the_command_wants_the_md5_and_the_remote_together(project, words):
    command = typer.main.get_command(app)
    with pytest.raises(LimnerError, match="--md5 and --remote belong together"):
        command.main(["prepare", "digits", "--params", str(project / "params.yaml"), *words], standalone_mode=False)
