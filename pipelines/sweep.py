"""Many settings of one model, on Kubeflow: all are trained and judged, and the best goes to the registry."""

from typing import List  # noqa: UP035 - kfp reads the annotation

from kfp import dsl

from components.choose import choose
from components.close_runs import close_runs
from components.prepare import prepare
from pipelines.one_model import Judged, gate_and_promote, train_and_judge
from pipelines.placement import Placement, Where, place

# Not the workspace: most volumes can be used on one node at a time, and the trials are to run on many. A retry goes on
# from `checkpoints`, or begins anew.
SCRATCH = f"/tmp/limner/{dsl.PIPELINE_JOB_ID_PLACEHOLDER}"  # noqa: S108 - of a pod


def build(placement: Placement) -> dsl.base_component.BaseComponent:
    """The pipeline with what is decided at compile time."""

    @dsl.pipeline(
        name="limner-sweep",
        description="Train and judge a model under several settings, and let the best one through the gate.",
    )
    def sweep(
        model: str,
        settings: str,
        trials: List[str],  # noqa: UP006
        dataset_md5: str = "",
        remote: str = "",
        dataset_path: str = "",
        checkpoints: str = "",
        cpu: str = "4",
        memory: str = "16Gi",
        gpus: int = 1,
        evaluation_gpus: int = 0,
        node_selector: dict = {},  # noqa: B006 - kfp reads the defaults; nobody changes them
        tolerations: list = [],  # noqa: B006
        s3_secret: str = "limner-s3",
        mlflow_secret: str = "limner-mlflow",
    ) -> None:
        """All trials of a sweep.

        Args:
            model: name of the model
            settings: its entries of params.yaml as one JSON string, which say what the dataset is
            trials: the same with each trial's changes, one JSON string each
            dataset_md5: DVC's name of the packed dataset, or of the pictures at dataset_path; empty: read the source
            remote: the DVC remote that has it, s3://bucket/prefix
            dataset_path: where pictures of that md5 lie in the repository, such as data/raw/monet
            checkpoints: s3://bucket/prefix from which retries and other pipeline runs go on; empty: they begin anew
            cpu: of training and evaluation, of each trial
            memory: of training and evaluation, of each trial
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
            prepared = prepare(
                model=model, settings=settings, dataset_md5=dataset_md5, remote=remote, dataset_path=dataset_path
            )
            place(prepared, placement, where, cached=True)
            with dsl.ParallelFor(trials, name="trials", parallelism=placement.parallel) as trial:
                judged = train_and_judge(
                    {"model": model, "settings": trial},
                    dataset=prepared.outputs["dataset"],
                    checkpoints=checkpoints,
                    placement=placement,
                    where=where,
                    scratch=SCRATCH,
                )
            best = choose(
                model=model,
                trials=trials,
                trained=dsl.Collected(judged.trained),
                evaluations=dsl.Collected(judged.evaluation),
            )
            place(best, placement, where)
            gate_and_promote(
                {"model": model, "settings": best.outputs["Output"]},
                Judged(best.outputs["best"], best.outputs["best_evaluation"]),
                placement=placement,
                where=where,
            )

    return sweep
