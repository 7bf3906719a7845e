"""What is said about a generator, in words."""

import pytest

from limner.picture_report import safeguards

GOOD = {
    "sure_share": 0.948, "sure_share_real": 0.951, "sure_share_ratio": 0.997, "class_entropy": 0.9995,
    "within_class_diversity": 0.95, "copy_share": 0.0005, "copy_share_real": 0.002,
}  # fmt: skip
WRONG = {
    "Only 41.5% of the pictures can be read": {"sure_share": 0.4155, "sure_share_ratio": 0.437},
    "far less often": {"class_entropy": 0.5},
    "only 10% as varied": {"within_class_diversity": 0.1},
    "learnt by heart": {"copy_share": 0.2},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_each_failure_is_named_and_no_other(wrong):
    found = list(safeguards(GOOD | WRONG[wrong]))
    assert len(found) == 4
    assert [wrong in check.sentence for check in found if not check.fine] == [True]


def test_a_good_generator_has_no_warning():
    assert all(check.fine for check in safeguards(GOOD))


def test_what_was_not_measured_is_not_spoken_of():
    (only,) = safeguards({"copy_share": 0.0})
    assert only.fine
    assert [c.fine for c in safeguards({"copy_share": 0.0, "diversity": 0.2})] == [False, True]
