"""choose: the best of several judged models."""

from typing import List  # noqa: UP035 - kfp reads the annotation

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def choose(
    model: str,
    trials: list,
    trained: dsl.Input[List[dsl.Model]],  # noqa: UP006
    evaluations: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    best: dsl.Output[dsl.Model],
    best_evaluation: dsl.Output[dsl.Artifact],
    comparison: dsl.Output[dsl.Markdown],
) -> str:
    """Compare the trials of a sweep by the policy's metric; returns the settings of the best.

    Args:
        model: their name
        trials: the settings of each, as one JSON string each
        trained: the trained models, in the order of the trials
        evaluations: their evaluations, in the same order
        best: the best model
        best_evaluation: its evaluation
        comparison: all of them, for the user interface
    """
    import shutil
    from pathlib import Path

    from limner.steps import catalog_from_json
    from limner.steps.choose import choose as step

    settings = [catalog_from_json(trial).model(model) for trial in trials]
    found = step(settings, name=model, evaluations=[Path(one.path) for one in evaluations])
    shutil.copytree(trained[found.best].path, best.path, dirs_exist_ok=True)
    shutil.copytree(evaluations[found.best].path, best_evaluation.path, dirs_exist_ok=True)
    Path(comparison.path).write_text(found.table, encoding="utf-8")
    return trials[found.best]
