"""add_up: how a batch went."""

from typing import List  # noqa: UP035 - kfp reads the annotation

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def add_up(results: List[str], summary: dsl.Output[dsl.Markdown]) -> int:  # noqa: UP006
    """Add up what the parts did; returns how many pictures could not be used.

    Args:
        results: what each part returned
        summary: counts and notes, for the user interface
    """
    import json
    from pathlib import Path

    from limner.steps.stylize import Stylized
    from limner.steps.stylize_batch import add_up as step

    total = step([Stylized(**json.loads(result)) for result in results])
    notes = "".join(f"- {note}\n" for note in total.notes[:100])
    counts = f"{total.done} stylized, {total.skipped} skipped, {total.refused} refused"
    Path(summary.path).write_text(f"# {counts}\n\n{notes}", encoding="utf-8")
    print(counts)
    return total.refused
