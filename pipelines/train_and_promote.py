"""One model from its pictures to the registry, on Kubeflow: what `dvc repro promote@MODEL` does on one machine."""

from kfp import dsl

from components.evaluate import evaluate
from components.export import export
from components.prepare import prepare
from components.promote import promote
from components.train import train

# Checkpoints lie on the workspace, a volume that lives as long as the run: a failed step leaves no other output behind.
WORKSPACE = dsl.WorkspaceConfig(size="20Gi")


@dsl.pipeline(
    name="limner-train-and-promote",
    description="Prepare a dataset, train a model on it, judge it, export it, and promote it if it is the better one.",
    pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE),
)
def train_and_promote(model: str, settings: str) -> str:
    """The five steps for one model; returns the verdict of the promotion.

    Args:
        model: name of the model
        settings: its entries of params.yaml as one JSON string, as `limner config show MODEL --json` prints them
    """
    what = {"model": model, "settings": settings}
    prepared = prepare(**what)
    trained = train(**what, dataset=prepared.outputs["dataset"], scratch=dsl.WORKSPACE_PATH_PLACEHOLDER)
    judged = evaluate(**what, dataset=prepared.outputs["dataset"], trained=trained.outputs["trained"])
    exported = export(**what, trained=trained.outputs["trained"], evaluation=judged.outputs["evaluation"])
    promoted = promote(**what, evaluation=judged.outputs["evaluation"], exported=exported.outputs["exported"])
    for task in (prepared, trained, judged, exported, promoted):
        # Kubeflow's cache knows an image by its name and a source of pictures not at all, and a hit would skip what a
        # step writes to MLflow and the registry.
        task.set_caching_options(enable_caching=False)
    return promoted.outputs["Output"]
