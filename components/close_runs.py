"""close_runs: what MLflow says of a pipeline run that is over."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def close_runs(kubeflow_run: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """End the MLflow runs that this pipeline run has left open: a pod that is killed cannot do it itself.

    Args:
        kubeflow_run: id of the pipeline run
        status: how the pipeline run ended
    """
    from limner.adapters import close_runs as close
    from limner.errors import LimnerError

    try:
        closed = close(kubeflow_run, state=status.state, why=status.error_message or "")
        print(f"The pipeline {status.state}; runs of it that were still open in MLflow: {', '.join(closed) or 'none'}")
    except LimnerError as error:  # what the pipeline has done is not undone by it
        print(f"{error}\nThe runs of {kubeflow_run} may still be open in MLflow.")
