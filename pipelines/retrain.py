"""Train a model again when its data have changed, on Kubeflow: made for a schedule."""

from kfp import dsl

from components.close_runs import close_runs
from components.prepare import prepare
from components.probe import probe
from components.resolve import resolve
from pipelines.one_model import gate_and_promote, train_and_judge
from pipelines.placement import Placement, Where, place


def build(placement: Placement) -> dsl.base_component.BaseComponent:
    """The pipeline with what is decided at compile time."""

    @dsl.pipeline(
        name="limner-retrain",
        description="Look whether the data have changed since the champion was trained; if so, train from it.",
        pipeline_config=placement.config(),
    )
    def retrain(
        model: str,
        settings: str,
        dataset_md5: str,
        remote: str,
        dataset_path: str = "",
        checkpoints: str = "",
        fine_tune: bool = True,
        cpu: str = "4",
        memory: str = "16Gi",
        gpus: int = 1,
        evaluation_gpus: int = 0,
        node_selector: dict = {},  # noqa: B006 - kfp reads the defaults; nobody changes them
        tolerations: list = [],  # noqa: B006
        s3_secret: str = "limner-s3",
        mlflow_secret: str = "limner-mlflow",
    ) -> None:
        """All steps for one model, if there is something new to learn.

        Args:
            model: name of the model
            settings: its entries of params.yaml as one JSON string, as `limner config show MODEL --json` prints them
            dataset_md5: DVC's name of the packed dataset, or of the pictures at dataset_path; or the s3:// address
                of a pointer to it, which is what a schedule needs
            remote: the DVC remote that has it, s3://bucket/prefix
            dataset_path: where pictures of that md5 lie in the repository, such as data/raw/monet
            checkpoints: s3://bucket/prefix from which other pipeline runs can go on, too; empty: the workspace only
            fine_tune: begin with the champion's weights
            cpu: of training and evaluation
            memory: of training and evaluation
            gpus: of training, one process each
            evaluation_gpus: of evaluation
            node_selector: labels that nodes for training and evaluation must have
            tolerations: of training and evaluation
            s3_secret: secret with AWS_ACCESS_KEY_ID and its kin
            mlflow_secret: secret with MLFLOW_TRACKING_URI and its kin
        """
        where = Where(cpu, memory, gpus, evaluation_gpus, node_selector, tolerations, s3_secret, mlflow_secret)
        closed = close_runs(kubeflow_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
        place(closed, placement, where)
        with dsl.ExitHandler(closed, name="steps"):
            newest = resolve(dataset_md5=dataset_md5)
            place(newest, placement, where)
            probed = probe(model=model, settings=settings, dataset_md5=newest.output, fine_tune=fine_tune)
            place(probed, placement, where)
            with dsl.If(probed.outputs["Output"] == "train", name="if-there-is-something-new"):
                what = {"model": model, "settings": probed.outputs["retrain_settings"]}
                prepared = prepare(**what, dataset_md5=newest.output, remote=remote, dataset_path=dataset_path)
                place(prepared, placement, where, cached=True)
                judged = train_and_judge(
                    what,
                    dataset=prepared.outputs["dataset"],
                    checkpoints=checkpoints,
                    judge_champion=True,
                    placement=placement,
                    where=where,
                )
                gate_and_promote(what, judged, placement=placement, where=where)

    return retrain
