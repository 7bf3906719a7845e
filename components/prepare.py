"""prepare: a source of pictures -> a packed dataset."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def prepare(
    model: str, settings: str, dataset_md5: str, remote: str, dataset_path: str, dataset: dsl.Output[dsl.Dataset]
) -> None:
    """Prepare the dataset that a model is trained on.

    Args:
        model: its name
        settings: the model's entries of params.yaml, as `limner config show MODEL --json` prints them
        dataset_md5: DVC's name of the packed dataset, or of the pictures at dataset_path; empty: read the source
        remote: the DVC remote that has it, s3://bucket/prefix
        dataset_path: where pictures of that md5 lie in the repository, such as data/raw/monet
        dataset: the packed dataset
    """
    from pathlib import Path

    from limner.adapters.dvc_cache import open_remote, resolve_md5
    from limner.steps import catalog_from_json
    from limner.steps.fetch import fetch
    from limner.steps.prepare import prepare as step

    catalog = catalog_from_json(settings)
    name, output = catalog.model(model).dataset, Path(dataset.path)
    if dataset_md5:
        dataset_md5, contents = resolve_md5(dataset_md5), open_remote(remote)
        result = fetch(
            catalog.dataset(name), name=name, md5=dataset_md5, place=dataset_path, contents=contents, output=output
        )
    else:
        result = step(catalog.dataset(name), name=name, output=output)
    dataset.metadata.update(name=name, digest=result.digest, dataset_md5=dataset_md5)
