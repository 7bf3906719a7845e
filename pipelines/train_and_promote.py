"""One model from its pictures to the registry, on Kubeflow: what `dvc repro promote@MODEL` does on one machine."""

from kfp import dsl

from components.close_runs import close_runs
from components.prepare import prepare
from pipelines.one_model import gate_and_promote, train_and_judge
from pipelines.placement import Placement, Where, place


def build(placement: Placement) -> dsl.base_component.BaseComponent:
    """The pipeline with what is decided at compile time."""

    @dsl.pipeline(
        name="limner-train-and-promote",
        description="Prepare a dataset, train a model on it, judge it, export it, and promote it if it is better.",
        pipeline_config=placement.config(),
    )
    def train_and_promote(
        model: str,
        settings: str,
        dataset_md5: str = "",
        remote: str = "",
        dataset_path: str = "",
        checkpoints: str = "",
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
            dataset_md5: DVC's name of the packed dataset, or of the pictures at dataset_path; empty: read the source
            remote: the DVC remote that has it, s3://bucket/prefix
            dataset_path: where pictures of that md5 lie in the repository, such as data/raw/monet
            checkpoints: s3://bucket/prefix from which other pipeline runs can go on, too; empty: the workspace only
            cpu: of training and evaluation
            memory: of training and evaluation
            gpus: of training, one process each
            evaluation_gpus: of evaluation
            judge_champion: judge the champion, too, by the same classifier and on the same data, before the gate
            node_selector: labels that nodes for training and evaluation must have
            tolerations: of training and evaluation
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
            judged = train_and_judge(
                what,
                dataset=prepared.outputs["dataset"],
                checkpoints=checkpoints,
                judge_champion=judge_champion,
                placement=placement,
                where=where,
            )
            gate_and_promote(what, judged, placement=placement, where=where)

    return train_and_promote
