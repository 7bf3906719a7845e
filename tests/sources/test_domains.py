"""The sets of pictures that a dataset consists of."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from limner.errors import LimnerError
from limner.settings import Source
from limner.sources.domains import open_domains, places


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
