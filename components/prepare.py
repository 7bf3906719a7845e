"""prepare: a source of pictures -> a packed dataset."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def prepare(model: str, settings: str, dataset: dsl.Output[dsl.Dataset]) -> None:
    """Prepare the dataset that a model is trained on.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        dataset: the packed dataset
    """
    from pathlib import Path

    from limner.steps import catalog_from_json
    from limner.steps.prepare import prepare as step

    catalog = catalog_from_json(settings)
    name = catalog.model(model).dataset
    result = step(catalog.dataset(name), name=name, output=Path(dataset.path))
    dataset.metadata.update(name=name, digest=result.digest)
