"""train_on_nodes: a packed dataset -> a trained model, by many nodes at once through Kubeflow Trainer."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def train_on_nodes(
    model: str,
    settings: str,
    dataset: dsl.Input[dsl.Dataset],
    place: str,
    image: str,
    nodes: int,
    processes: int,
    cpu: str,
    memory: str,
    gpus: str,
    s3_secret: str,
    mlflow_secret: str,
    kubeflow_run: str,
    trained: dsl.Output[dsl.Model],
) -> str:
    """Train a model on many nodes, or go on watching the nodes that do; returns the id of its MLflow run.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        dataset: the packed dataset
        place: s3://bucket/prefix that this step and the nodes reach: the data, the checkpoints, the trained model
        image: ours, by its digest
        nodes: how many
        processes: on each node, one for each of its GPUs
        cpu: of each node, such as "8"
        memory: of each node, such as "32Gi"
        gpus: of each node, such as "1"; "0" for none
        s3_secret: secret of this namespace with AWS_ACCESS_KEY_ID and the like
        mlflow_secret: secret of this namespace with MLFLOW_TRACKING_URI and the like
        kubeflow_run: id of the pipeline run, for the lineage
        trained: the last and the best product, journal and curves
    """
    from pathlib import Path

    from limner.adapters import connect
    from limner.adapters.kubernetes_jobs import KubernetesJobs
    from limner.steps.train_on_nodes import train_on_nodes as step
    from limner.train_job import Nodes

    result = step(
        settings,
        name=model,
        dataset=Path(dataset.path),
        output=Path(trained.path),
        nodes=Nodes(image, nodes, max(1, processes), cpu, memory, gpus, place, s3_secret, mlflow_secret),
        cluster=KubernetesJobs(notice=print),
        ports=connect(track=False, checkpoints=place, kubeflow_run=kubeflow_run),
    )
    trained.metadata.update(name=model, run_id=result.run_id, dataset_digest=result.dataset_digest)
    return result.run_id
