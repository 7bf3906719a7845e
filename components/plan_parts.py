"""plan_parts: the pictures of a prefix, divided."""

from typing import List  # noqa: UP035 - kfp reads the annotation

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def plan_parts(source: str, model: str, parts: int) -> List[str]:  # noqa: UP006
    """Return the parts that have pictures.

    Args:
        source: s3://bucket/prefix of the pictures
        model: models:/NAME@champion, or models:/NAME/VERSION
        parts: how many to make of them, at most
    """
    from limner.adapters import connect
    from limner.adapters.object_store import S3Store
    from limner.steps.stylize import StylizeOptions
    from limner.steps.stylize_batch import plan_parts as step

    return step(
        source, store=S3Store(source), model=model, parts=parts, registry=connect().registry, options=StylizeOptions()
    )
