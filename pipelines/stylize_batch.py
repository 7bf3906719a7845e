"""The pictures of a whole prefix in the style of a registered model, on Kubeflow."""

from kfp import dsl

from components.add_up import add_up
from components.plan_parts import plan_parts
from components.stylize_part import stylize_part
from pipelines.placement import Placement, Where, place, place_heavy


def build(placement: Placement) -> dsl.base_component.BaseComponent:
    """The pipeline with what is decided at compile time."""

    @dsl.pipeline(
        name="limner-stylize-batch",
        description="Stylize all pictures of an S3 prefix with the champion, in parts that run side by side.",
    )
    def stylize_batch(
        model: str,
        source: str,
        destination: str,
        parts: int = 8,
        strength: float = 1.0,
        cpu: str = "4",
        memory: str = "8Gi",
        gpus: int = 0,
        node_selector: dict = {},  # noqa: B006 - kfp reads the defaults; nobody changes them
        tolerations: list = [],  # noqa: B006
        s3_secret: str = "limner-s3",
        mlflow_secret: str = "limner-mlflow",
    ) -> None:
        """All pictures of a prefix. Those that are done already are skipped, so it can run again and again.

        Args:
            model: models:/NAME@champion, or models:/NAME/VERSION
            source: s3://bucket/prefix of the pictures
            destination: s3://bucket/prefix of the results; outside the source
            parts: how many to make of the pictures, at most
            strength: 0 is the source, 1 the full style
            cpu: of each part
            memory: of each part
            gpus: of each part, 0 or 1
            node_selector: labels that nodes for the parts must have
            tolerations: of the parts
            s3_secret: secret with AWS_ACCESS_KEY_ID and its kin
            mlflow_secret: secret with MLFLOW_TRACKING_URI and its kin
        """
        where = Where(cpu, memory, None, gpus, node_selector, tolerations, s3_secret, mlflow_secret)
        planned = plan_parts(source=source, model=model, parts=parts)
        place(planned, placement, where)
        with dsl.ParallelFor(planned.output, name="parts", parallelism=placement.parallel) as part:
            styled = stylize_part(
                part=part, source=source, destination=destination, strength=strength, resources=where.words(gpus)
            )
            place_heavy(styled, placement, where, gpus=where.evaluation_gpus)
        total = add_up(results=dsl.Collected(styled.output))
        place(total, placement, where)

    return stylize_batch
