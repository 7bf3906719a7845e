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
    from pathlib import Path

    from limner.adapters import connect
    from limner.steps import catalog_from_json
    from limner.steps.launch import train_in_processes
    from limner.steps.train import train as step

    print(f"Training {model} with {resources}", flush=True)
    settings_of_model, place = catalog_from_json(settings).model(model), Path(scratch) / model
    if processes > 1:
        places = {"dataset": dataset.path, "output": trained.path, "scratch": str(place), "checkpoints": checkpoints}
        where = {"KFP_RUN_ID": kubeflow_run}
        run_id = train_in_processes(settings, name=model, processes=processes, places=places, environment=where)
    else:
        result = step(
            settings_of_model,
            name=model,
            dataset=Path(dataset.path),
            output=Path(trained.path),
            scratch=place,
            ports=connect(checkpoints=checkpoints, kubeflow_run=kubeflow_run),
        )
        run_id = result.run_id
    trained.metadata.update(name=model, run_id=run_id)
    return run_id
