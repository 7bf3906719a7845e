"""train: a packed dataset -> a trained model."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def train(
    model: str,
    settings: str,
    dataset: dsl.Input[dsl.Dataset],
    scratch: str,
    checkpoints: str,
    processes: int,
    kubeflow_run: str,
    resources: str,
    trained: dsl.Output[dsl.Model],
) -> str:
    """Train a model, or go on where an attempt before this one stopped; returns the id of its MLflow run.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        dataset: the packed dataset
        scratch: folder of the checkpoints; what outlives the pod lets a retry go on from there
        checkpoints: s3://bucket/prefix for copies of them, from which other pipeline runs go on, too; or empty
        processes: how many, one for each GPU
        kubeflow_run: id of the pipeline run, for the lineage
        resources: what the pod may use, for the log
        trained: the last and the best product, journal and curves
    """
    from functools import partial
    from pathlib import Path

    from limner.adapters import connect
    from limner.steps.launch import train_once

    print(f"Training {model} with {resources}", flush=True)
    run_id = train_once(
        settings,
        name=model,
        dataset=Path(dataset.path),
        output=Path(trained.path),
        scratch=Path(scratch),
        processes=processes,
        open_ports=partial(connect, checkpoints=checkpoints, kubeflow_run=kubeflow_run),
        environment={"KFP_RUN_ID": kubeflow_run, "LIMNER_CHECKPOINTS": checkpoints},
    )
    trained.metadata.update(name=model, run_id=run_id)
    return run_id
