"""The sets of pictures that a dataset consists of."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from limner.errors import LimnerError
from limner.settings import Source
from limner.sources.domains import open_domains, places, task_of


def source(**raw):
    return TypeAdapter(Source).validate_python(raw)


def picture_in(folder):
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(b"")
    return str(folder)


def test_one_set_is_called_pictures():
    domains = open_domains(source(kind="printed-digits", count=10), largest_file=1)
    assert list(domains) == ["pictures"]
    assert len(list(domains["pictures"].pictures)) == 10


def test_an_unpaired_source_has_a_source_and_a_target(tmp_path):
    one, two = picture_in(tmp_path / "one" / "cat"), picture_in(tmp_path / "two")
    unpaired = source(
        kind="unpaired",
        source={"kind": "class-folders", "path": str(Path(one).parent)},
        target={"kind": "folder", "path": two},
    )
    domains = open_domains(unpaired, largest_file=1)
    assert {name: domain.classes for name, domain in domains.items()} == {"source": ("cat",), "target": ()}
    assert places(unpaired) == [tmp_path / "one", tmp_path / "two"]


def test_a_paired_source_has_a_source_and_a_target(tmp_path):
    one, two = picture_in(tmp_path / "one"), picture_in(tmp_path / "two")
    pairs = source(kind="paired", source={"kind": "folder", "path": one}, target={"kind": "folder", "path": two})
    assert list(open_domains(pairs, largest_file=1)) == ["source", "target"]
    assert places(pairs) == [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize(("source_on", "halves"), [("left", ["left", "right"]), ("right", ["right", "left"])])
def test_side_by_side_pictures_are_read_as_two_halves(tmp_path, source_on, halves):
    pairs = source(kind="side-by-side", path=picture_in(tmp_path / "one"), source_on=source_on)
    domains = open_domains(pairs, largest_file=1)
    assert list(domains) == ["source", "target"]
    assert [next(domain.pictures).half for domain in domains.values()] == halves
    assert places(pairs) == [tmp_path / "one"]


def test_the_kind_of_source_says_what_the_dataset_is():
    one = {"kind": "mnist5k"}
    kinds = {kind: source(kind=kind, source=one, target=one) for kind in ("unpaired", "paired")}
    assert {kind: task_of(each) for kind, each in kinds.items()} == {"unpaired": "unpaired", "paired": "paired"}
    assert task_of(source(kind="side-by-side", path="x")) == "paired"
    assert task_of(source(kind="mnist5k")) == "pictures"


def test_a_missing_domain_is_an_error(tmp_path):
    unpaired = source(
        kind="unpaired", source={"kind": "mnist5k"}, target={"kind": "folder", "path": str(tmp_path / "nowhere")}
    )
    with pytest.raises(LimnerError, match=r"no folder or archive .*nowhere"):
        open_domains(unpaired, largest_file=1)


@pytest.mark.parametrize("raw", [{"kind": "mnist5k"}, {"kind": "printed-digits"}])
def test_a_source_inside_a_package_has_no_place(raw):
    assert places(source(**raw)) == []


def test_several_paths_are_several_places():
    assert places(source(kind="folder", path=["a", "b/c"])) == [Path("a"), Path("b/c")]
    assert places(source(kind="cifar10", path="x")) == [Path("x")]
