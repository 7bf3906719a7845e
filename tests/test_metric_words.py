"""Every metric has words, and its error stands behind it."""

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
    assert with_errors(figures) == {"fd_classifier": "12.5 ± 0.31", "inception_score": "9 ± 0.5"}
    assert with_errors({"sharpness_se": 3.0}) == {"sharpness_se": "3"}, "of a figure that is not there it stays"


def test_no_error_and_no_extrapolation_stands_at_the_top():
    figures = {"fd_classifier": 12.5, "fd_classifier_se": 0.3, "fd_classifier_infinity": 11.0}
    assert dict(headlines(figures, HEADLINES)) == {"12.5": "Fréchet distance"}
