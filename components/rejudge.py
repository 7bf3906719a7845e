"""rejudge: the champion's figures on other data."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def rejudge(model: str, settings: str, dataset: dsl.Input[dsl.Dataset], resources: str) -> None:
    """Judge the present champion on the dataset, so that a model which learnt from it can be compared.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        dataset: the packed dataset
        resources: what the pod may use, for the log
    """
    from pathlib import Path

    from limner.adapters import connect
    from limner.steps import catalog_from_json
    from limner.steps.rejudge import rejudge as step

    print(f"Judging the champion of {model} with {resources}", flush=True)
    print(step(catalog_from_json(settings).model(model), name=model, dataset=Path(dataset.path), ports=connect()))
