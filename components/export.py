"""export: a trained model -> files that other programs can open."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def export(
    model: str,
    settings: str,
    trained: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    exported: dsl.Output[dsl.Model],
    card: dsl.Output[dsl.Markdown],
) -> None:
    """Export a trained model.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        trained: the trained model
        evaluation: its evaluation, which chose between the last and the best product
        exported: safetensors, torch.export and ONNX files, and the model card
        card: the model card, for the user interface
    """
    from pathlib import Path

    from limner.adapters import connect
    from limner.card import inline_card
    from limner.card_files import CARD
    from limner.steps import catalog_from_json
    from limner.steps.export import export as step

    result = step(
        catalog_from_json(settings).model(model),
        name=model,
        model=Path(trained.path),
        evaluation=Path(evaluation.path),
        output=Path(exported.path),
        ports=connect(),
    )
    exported.metadata.update(name=model, digest=result.digest)
    has_card = (result.output / CARD).is_file()  # of an older evaluation none can be made
    text = inline_card(result.output) if has_card else "Evaluate the model again, and export it: then it has a card."
    Path(card.path).write_text(text, encoding="utf-8")
