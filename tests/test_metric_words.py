"""Every metric has words, and its error stands behind it."""

import pytest

from limner.metric_words import HEADLINES, MEANINGS, family, headlines, with_errors


def test_the_metrics_of_the_evaluation_are_all_explained():
    measured = (
        "fid fid_clean fid_tf1_infinity fd_classifier fd_classifier_infinity kid kid_tf1 kd_classifier "
        "precision_classifier recall_inception-v3-2015 density_classifier coverage_classifier inception_score "
        "perceptual_diversity_classifier perceptual_distance_classifier perceptual_distance_classifier_truth "
        "ms_ssim ms_ssim_identity ms_ssim_source "
        "sure_share sure_share_real sure_share_ratio class_entropy label_agreement label_agreement_real "
        "within_class_diversity diversity copy_share copy_share_real novelty "
        "fid_source fid_real fid_ratio fd_pixels_source fd_pixels_real fd_pixels-tiles_ratio label_agreement_source "
        "l1 l1_identity l1_ratio psnr psnr_identity ssim ssim_identity ssim_source cycle_l1 change identity_share "
        "feature_distance_classifier feature_distance_inception-v3-2015_unrelated "
        "colour_correlation inverted_share inverted_share_truth checkerboard"
    )
    assert {family(name) for name in measured.split()} == set(MEANINGS)


def test_an_error_stands_behind_its_figure():
    figures = {"fd_classifier": 12.5, "fd_classifier_se": 0.314, "inception_score": 9.0, "inception_score_sd": 0.5}
    assert with_errors(figures) == {"fd_classifier": "12.50 ± 0.31", "inception_score": "9.00 ± 0.50"}
    assert with_errors({"sharpness_se": 3.0}) == {"sharpness_se": "3"}, "of a figure that is not there it stays"


def test_no_error_and_no_extrapolation_stands_at_the_top():
    figures = {"fd_classifier": 12.5, "fd_classifier_se": 0.3, "fd_classifier_infinity": 11.0}
    assert dict(headlines(figures, HEADLINES)) == {"12.5": "Fréchet distance"}


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.00034789, 0.00191055, "0.0003 ± 0.0019"),
        (-0.00001, 0.0019, "0.0000 ± 0.0019"),
        (0.13191426, 0.0363492, "0.132 ± 0.036"),
        (12345.6, 1234.5, "12300 ± 1200"),
        (1.0, 0.0996, "1.00 ± 0.10"),
        (0.5, 0.0, "0.5"),
        (0.5, float("nan"), "0.5"),
    ],
)
def test_a_figure_has_no_more_digits_than_its_error_leaves_it(value, error, shown):
    assert with_errors({"fid": value, "fid_se": error}) == {"fid": shown}


def test_copies_are_counted():
    figures = {"copy_share": 0.0005, "copy_share_se": 0.0005, "copy_share_real": 0.0}
    protocol = {"samples": "2000", "held_out_pictures": "466"}
    assert with_errors(figures, protocol) == {"copy_share": "1 of 2,000", "copy_share_real": "none of 466"}
    assert with_errors(figures)["copy_share"] == "0.00050 ± 0.00050"
    assert dict(headlines(figures, HEADLINES, protocol)) == {"1 of 2,000": "copies of training pictures"}
    assert dict(headlines(figures, HEADLINES)) == {"0.05%": "copies of training pictures"}


def test_no_row_leaves_open_what_it_is_compared_with():
    assert not [words for _, words in MEANINGS.values() if "the same" in words.replace("always the same one", "")]
    assert not [words for _, words in MEANINGS.values() if "the first" in words or "the second" in words]
