"""stylize_part: some of the pictures of a prefix through a registered model."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def stylize_part(part: str, source: str, destination: str, strength: float, resources: str) -> str:
    """Stylize one part of the pictures; returns how many were done, skipped and refused, as JSON.

    Args:
        part: one of those that plan_parts made
        source: s3://bucket/prefix of the pictures
        destination: s3://bucket/prefix of the results
        strength: 0 is the source, 1 the full style
        resources: what the pod may use, for the log
    """
    import json
    from dataclasses import asdict

    from limner.adapters import connect
    from limner.adapters.object_store import S3Store
    from limner.steps.stylize import StylizeOptions
    from limner.steps.stylize_batch import stylize_part as step

    print(f"Stylizing part {part} with {resources}", flush=True)
    result = step(
        part,
        source=source,
        destination=destination,
        stores=(S3Store(source), S3Store(destination)),
        registry=connect().registry,
        options=StylizeOptions(strength=strength),
    )
    # All parts' words travel together, as one argument of the next step.
    return json.dumps({**asdict(result), "notes": result.notes[:10]})
