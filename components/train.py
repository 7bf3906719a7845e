"""train: a packed dataset -> a trained model."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def train(
    model: str, settings: str, dataset: dsl.Input[dsl.Dataset], scratch: str, trained: dsl.Output[dsl.Model]
) -> None:
    """Train a model, or go on where an attempt before this one stopped.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        dataset: the packed dataset
        scratch: folder of the checkpoints; what outlives the pod lets a retry go on from there
        trained: the last and the best product, journal and curves
    """
    from pathlib import Path

    from limner.adapters import connect
    from limner.steps import catalog_from_json
    from limner.steps.train import train as step

    result = step(
        catalog_from_json(settings).model(model),
        name=model,
        dataset=Path(dataset.path),
        output=Path(trained.path),
        scratch=Path(scratch) / model,
        ports=connect(),
    )
    trained.metadata.update(name=model, run_id=result.run_id, dataset_digest=result.dataset_digest)
