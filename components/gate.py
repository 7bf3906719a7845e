"""gate: what becomes of a judged model."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def gate(model: str, settings: str, evaluation: dsl.Input[dsl.Artifact], decision: dsl.Output[dsl.Markdown]) -> str:
    """Judge a model by the policy and against the present champion; returns promote, hold or reject.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        evaluation: its evaluation
        decision: the verdict and the reasons, for the user interface
    """
    from pathlib import Path

    from limner.adapters import connect
    from limner.steps import catalog_from_json
    from limner.steps.gate import gate as step

    found = step(
        catalog_from_json(settings).model(model), name=model, evaluation=Path(evaluation.path), ports=connect()
    )
    reasons = "".join(f"- {reason}\n" for reason in found.reasons)
    Path(decision.path).write_text(f"# {model}: {found.verdict}\n\n{reasons}", encoding="utf-8")
    return found.verdict
