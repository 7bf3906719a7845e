"""One model from its pictures to the registry, on many nodes: `train_and_promote` with Kubeflow Trainer."""

from kfp import dsl

from components.close_runs import close_runs
from components.prepare import prepare
from components.train_on_nodes import train_on_nodes as train
from pipelines.one_model import gate_and_promote, judge
from pipelines.placement import Placement, Where, place, place_watch


def build(placement: Placement) -> dsl.base_component.BaseComponent:
    """The pipeline with what is decided at compile time."""

    @dsl.pipeline(
        name="limner-train-on-nodes",
        description="As train-and-promote, with a training that many nodes share through Kubeflow Trainer.",
    )
    def train_on_nodes(
        model: str,
        settings: str,
        checkpoints: str,
        nodes: int = 2,
        dataset_md5: str = "",
        remote: str = "",
        dataset_path: str = "",
        cpu: str = "4",
        memory: str = "16Gi",
        gpus: int = 1,
        evaluation_gpus: int = 0,
        judge_champion: bool = False,
        node_selector: dict = {},  # noqa: B006 - kfp reads the defaults; nobody changes them
        tolerations: list = [],  # noqa: B006
        s3_secret: str = "limner-s3",
        mlflow_secret: str = "limner-mlflow",
    ) -> None:
        """All steps for one model.

        Args:
            model: name of the model
            settings: its entries of params.yaml as one JSON string, as `limner config show MODEL --json` prints them
            checkpoints: s3://bucket/prefix that all nodes reach: for the data, the checkpoints and the trained model
            nodes: how many train, with `gpus` processes each
            dataset_md5: DVC's name of the packed dataset, or of the pictures at dataset_path; empty: read the source
            remote: the DVC remote that has it, s3://bucket/prefix
            dataset_path: where pictures of that md5 lie in the repository, such as data/raw/monet
            cpu: of each node, and of evaluation
            memory: of each node, and of evaluation
            gpus: of each node, one process each
            evaluation_gpus: of evaluation
            judge_champion: judge the champion, too, by the same classifier and on the same data, before the gate
            node_selector: labels that nodes for evaluation must have; those for training: the TrainingRuntime's
            tolerations: of evaluation
            s3_secret: secret with AWS_ACCESS_KEY_ID and its kin
            mlflow_secret: secret with MLFLOW_TRACKING_URI and its kin
        """
        what = {"model": model, "settings": settings}
        where = Where(cpu, memory, gpus, evaluation_gpus, node_selector, tolerations, s3_secret, mlflow_secret)
        closed = close_runs(kubeflow_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
        place(closed, placement, where)
        with dsl.ExitHandler(closed, name="steps"):
            prepared = prepare(**what, dataset_md5=dataset_md5, remote=remote, dataset_path=dataset_path)
            place(prepared, placement, where, cached=True)
            trained = train(
                **what,
                dataset=prepared.outputs["dataset"],
                place=checkpoints,
                image=placement.image,
                nodes=nodes,
                processes=gpus,
                cpu=cpu,
                memory=memory,
                gpus=f"{gpus}",
                s3_secret=s3_secret,
                mlflow_secret=mlflow_secret,
                kubeflow_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            )
            place_watch(trained, placement, where)
            judged = judge(
                what,
                trained.outputs["trained"],
                dataset=prepared.outputs["dataset"],
                judge_champion=judge_champion,
                placement=placement,
                where=where,
            )
            gate_and_promote(what, judged, placement=placement, where=where)

    return train_on_nodes
