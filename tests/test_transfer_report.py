"""What is said about a translation, in words."""

import pytest

from limner.transfer_report import safeguards, yardsticks

GOOD = {
    "fd_classifier": 1.2345, "fd_classifier_source": 12.0, "fd_classifier_real": 1.0, "fd_classifier_ratio": 0.1,
    "label_agreement": 0.96, "label_agreement_source": 0.85, "label_agreement_real": 0.99,
    "change": 0.1, "identity_share": 0.0, "colour_correlation": 0.5, "inverted_share": 0.01, "checkerboard": 1.1,
    "within_class_diversity": 0.9, "copy_share": 0.0, "copy_share_real": 0.0, "ssim_source": 0.5,
}  # fmt: skip
WRONG = {
    "hardly differ": {"identity_share": 0.2},
    "negatives": {"inverted_share": 0.5},
    "checkerboard": {"checkerboard": 4.0},
    "the same picture": {"within_class_diversity": 0.1},
    "content is lost": {"label_agreement": 0.8},
    "learnt by heart": {"copy_share": 0.2},
}


def rows(metrics):
    return {row.words: (row.result, row.untouched, row.real) for row in yardsticks(metrics)}


def test_figures_stand_beside_those_of_the_untouched_sources_and_of_real_targets():
    assert rows(GOOD) == {
        "distance to the target style": ("1.23", "12", "1"),
        "read as what the source shows": ("96.0%", "85.0%", "99.0%"),
        "structural similarity to the source": ("0.50", "1", ""),
    }


def test_errors_against_the_truth_come_first_and_what_is_not_known_is_left_empty():
    truth = {"l1": 0.02, "l1_identity": 0.1, "psnr": 25.0, "psnr_identity": 9.0, "ssim": 0.9, "ssim_identity": 0.4}
    found = rows(truth | {"fid": 7.0, "fid_source": 70.0, "label_agreement": 0.9, "label_agreement_source": 0.8})
    assert list(found)[:3] == [
        "mean difference to the truth", "signal to noise against the truth", "structural similarity to the truth",
    ]  # fmt: skip
    assert found["mean difference to the truth"] == ("2.0%", "10.0%", "0")
    assert found["distance to the target style"] == ("7", "70", "")
    assert found["read as what the source shows"] == ("90.0%", "80.0%", "")


@pytest.mark.parametrize("wrong", WRONG)
def test_each_failure_is_named_and_no_other(wrong):
    found = list(safeguards(GOOD | WRONG[wrong]))
    assert len(found) == 6
    assert [wrong in check.sentence for check in found if not check.fine] == [True]
    assert all(check.fine for check in safeguards(GOOD))


def test_what_was_not_measured_is_not_spoken_of():
    few = {name: GOOD[name] for name in ("change", "identity_share", "copy_share")}
    assert len(list(safeguards(few))) == 2


def test_negatives_are_right_where_the_truth_is_one():
    assert all(check.fine for check in safeguards(GOOD | {"inverted_share": 0.9, "inverted_share_truth": 0.9}))
    (found,) = [c for c in safeguards(GOOD | {"inverted_share": 0.9, "inverted_share_truth": 0.1}) if not c.fine]
    assert "10.0% of the truth" in found.sentence
