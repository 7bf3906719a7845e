"""Statistics files: other tools read what is written, and what others wrote is read; nothing else passes for one."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from limner.errors import LimnerError
from limner.frechet import Moments
from limner.statistics_files import (
    Statistics,
    is_statistics_file,
    read_statistics,
    refuse_unwritable,
    write_statistics,
)

PROTOCOL = {"features": "pixels", "weights": "pixels-8"}


def statistics(count=50, dimensions=6, protocol=PROTOCOL):
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(count, dimensions, generator=rng, dtype=torch.float64)
    return Statistics(Moments.of(features).gaussian(), count, protocol)


@pytest.mark.parametrize("count", [4, 50])
def test_what_is_written_is_read_again(tmp_path, count):
    written = statistics(count)
    write_statistics(tmp_path / "new" / "a.npz", written)
    found = read_statistics(tmp_path / "new" / "a.npz")
    torch.testing.assert_close(found.gaussian.mean, written.gaussian.mean, rtol=0, atol=0)
    torch.testing.assert_close(found.gaussian.covariance, written.gaussian.covariance, rtol=1e-15, atol=1e-15)
    assert (found.count, found.protocol) == (count, PROTOCOL)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_other_tools_read_it(tmp_path):
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    written = statistics()
    write_statistics(tmp_path / "a.npz", written)
    mean, covariance = fid_score.compute_statistics_of_path(str(tmp_path / "a.npz"), None, 1, 1, "cpu")
    np.testing.assert_array_equal(mean, written.gaussian.mean)
    np.testing.assert_array_equal(covariance, written.gaussian.covariance)
    with np.load(tmp_path / "a.npz") as file:  # as clean-fid and StudioGAN do, which take pickles as well
        assert (file["mu"].dtype, file["sigma"].dtype) == (np.float64, np.float64)
        assert json.loads(str(file["limner"])) == {"count": 50, "protocol": PROTOCOL}


def test_files_of_other_tools_are_read(tmp_path):
    written = statistics().gaussian
    mean, covariance = written.mean.numpy(), written.covariance.numpy()
    np.savez(tmp_path / "theirs.npz", mu=mean.astype(np.float32), sigma=covariance, count=np.arange(3), arr_0=mean)
    found = read_statistics(tmp_path / "theirs.npz")
    assert (found.count, found.protocol) == (None, None)
    torch.testing.assert_close(found.gaussian.covariance, written.covariance)


def test_what_a_later_version_adds_is_left_aside(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=np.eye(2), limner=np.array('{"count": 3, "more": 1}'))
    assert read_statistics(tmp_path / "a.npz").count == 3


@pytest.mark.parametrize("theirs", [np.array("{"), np.array('{"protocol": {"a": 1}}'), np.eye(3), np.array([None])])
def test_an_entry_of_our_name_that_is_not_ours_is_left_aside_with_a_note(tmp_path, theirs):
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=np.eye(2), limner=theirs)
    found = read_statistics(tmp_path / "a.npz")
    assert (found.count, found.protocol) == (None, None)
    assert found.notes == (
        f"{tmp_path / 'a.npz'}: its entry 'limner' is not of this Limner's form, and is left aside.",
    )


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_variance_of_a_single_feature_is_a_covariance(tmp_path, shape):
    np.savez(tmp_path / "a.npz", mu=np.full(shape[:1], 2.0), sigma=np.full(shape, 3.0))
    found = read_statistics(tmp_path / "a.npz").gaussian
    assert (found.mean.tolist(), found.covariance.tolist()) == ([2.0], [[3.0]])


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_statistics_file_runs_no_code(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.array([Trap(tmp_path / "sprung")]), sigma=np.eye(2))
    with pytest.raises(LimnerError, match="holds no statistics"):
        read_statistics(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": np.zeros(3)}, "It has no mu and no sigma; it has: arr_0"),
        ({"mu": np.zeros(3)}, "It has no sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"not \[3\] and \[4, 4\]"),
        ({"mu": np.zeros((3, 1)), "sigma": np.eye(3)}, "a mean .D. and a covariance"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
        ({"mu": np.array([np.nan, 0]), "sigma": np.eye(2)}, "not finite"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "negative eigenvalues"),
        ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "could not convert"),
        ({"mu": np.zeros(2), "sigma": np.eye(2) + 0.1j}, "Its sigma holds complex numbers"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.inf)}, r"not finite.\nMake the file again from the pictures"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), 1e308)}, "holds no usable statistics"),
        ({"mu": np.array([None]), "sigma": np.eye(1)}, "It holds Python objects, which are not read"),
    ],
)
def test_what_cannot_be_statistics_is_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(LimnerError, match=words):
        read_statistics(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"mu, sigma", b"<!DOCTYPE html>", b"PK\3\4 cut", pickle.dumps([1.0])])
def test_what_only_has_the_name_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(LimnerError, match=r"holds no statistics of pictures.\nIt is not an .npz file") as raised:
        read_statistics(tmp_path / "a.npz")
    assert "pickle" not in str(raised.value), "nobody is told how to run what is in it"


def test_a_cut_file_is_refused(tmp_path):
    write_statistics(tmp_path / "a.npz", statistics(dimensions=40))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:5000])
    with pytest.raises(LimnerError, match="holds no statistics of pictures"):
        read_statistics(tmp_path / "a.npz")


def test_a_single_array_is_no_statistics_file(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(LimnerError, match=r"It is not an \.npz file"):
        read_statistics(tmp_path / "a.npz")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(LimnerError, match="There is no statistics file"):
        read_statistics(tmp_path / "a.npz")


def test_a_name_that_nobody_would_find_again_is_refused(tmp_path):
    with pytest.raises(LimnerError, match=r"is no name .*\n.*\.npz"):
        write_statistics(tmp_path / "a.png", statistics())
    (tmp_path / "file").touch()
    with pytest.raises(LimnerError, match="cannot be written"):
        write_statistics(tmp_path / "file" / "a.npz", statistics())


def test_whether_a_file_can_be_written_is_known_beforehand(tmp_path):
    refuse_unwritable(tmp_path / "new" / "below" / "a.npz")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for place, words in (
        (tmp_path / "a.png", "is no name for a statistics file"),
        (tmp_path / "folder.npz", "is a folder"),
        (tmp_path / "file" / "a.npz", "cannot be written"),
        (Path("/proc/nope/a.npz"), r"cannot be written.\n/proc: "),
    ):
        with pytest.raises(LimnerError, match=words):
            refuse_unwritable(place)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_statistics(tmp_path / "a.npz", statistics(5))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(LimnerError, match=r"cannot be written.\nNo space left"):
        write_statistics(tmp_path / "a.npz", statistics(50))
    assert read_statistics(tmp_path / "a.npz").count == 5
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_folder_is_no_statistics_file(tmp_path):
    (tmp_path / "a.npz").mkdir()
    assert not is_statistics_file(tmp_path / "a.npz")
    assert is_statistics_file(tmp_path / "B.NPZ")
