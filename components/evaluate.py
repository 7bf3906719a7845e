"""evaluate: a trained model -> metrics and a report."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def evaluate(
    model: str,
    settings: str,
    dataset: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    judge_champion: bool,
    resources: str,
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Judge a trained model.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        dataset: the packed dataset
        trained: the trained model
        judge_champion: judge the present champion on these data, too, with the same means, so that both can be compared
        resources: what the pod may use, for the log
        evaluation: metrics.json with their protocol, report.html, curves.csv
        metrics: the figures, for the user interface
        report: the report, for the user interface
    """
    import math
    import shutil
    from pathlib import Path

    from limner.adapters import connect
    from limner.steps import catalog_from_json
    from limner.steps.evaluate import evaluate as step
    from limner.steps.rejudge import rejudge

    print(f"Evaluating {model} with {resources}", flush=True)
    what, ports = catalog_from_json(settings).model(model), connect()
    result = step(
        what,
        name=model,
        dataset=Path(dataset.path),
        model=Path(trained.path),
        output=Path(evaluation.path),
        ports=ports,
    )
    if judge_champion:
        print(rejudge(what, name=model, dataset=Path(dataset.path), ports=ports))
    shutil.copyfile(result.output / "report.html", report.path)
    for name, value in result.metrics.items():
        if math.isfinite(value):  # of anything else Kubeflow makes a failed step
            metrics.log_metric(name, value)
