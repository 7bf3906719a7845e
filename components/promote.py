"""promote: an exported model -> a version in the registry, perhaps the champion."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def promote(
    model: str,
    settings: str,
    evaluation: dsl.Input[dsl.Artifact],
    exported: dsl.Input[dsl.Model],
    promotion: dsl.Output[dsl.Artifact],
) -> str:
    """Register an exported model, and make it the champion if it beats the present one; returns the verdict.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        evaluation: its evaluation
        exported: the exported model
        promotion: promotion.json, which has the verdict and the reasons
    """
    from pathlib import Path

    from limner.adapters import connect
    from limner.steps import catalog_from_json
    from limner.steps.promote import promote as step

    result = step(
        catalog_from_json(settings).model(model),
        name=model,
        evaluation=Path(evaluation.path),
        export=Path(exported.path),
        output=Path(promotion.path),
        ports=connect(),
    )
    promotion.metadata.update(name=model, version=result.version, alias=result.alias)
    return result.verdict
