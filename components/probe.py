"""probe: whether there is anything to learn that the champion does not know."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def probe(
    model: str,
    settings: str,
    dataset_md5: str,
    fine_tune: bool,
    retrain_settings: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> str:
    """Compare the data with those of the champion; returns train or skip.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        dataset_md5: DVC's name of the data
        fine_tune: begin with the champion's weights
        retrain_settings: the settings to train with
    """
    from pathlib import Path

    from limner.adapters import connect
    from limner.steps.probe import probe as step

    found = step(settings, name=model, dataset_md5=dataset_md5, fine_tune=fine_tune, ports=connect())
    print(found.reason)
    Path(retrain_settings).write_text(found.settings, encoding="utf-8")
    return found.verdict
