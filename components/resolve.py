"""resolve: the name of the data that are to be used now."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def resolve(dataset_md5: str) -> str:
    """Return DVC's name of the newest data.

    Args:
        dataset_md5: the name itself, or the s3:// address of the pointer that `python -m pipelines publish` writes
    """
    from limner.adapters.dvc_cache import resolve_md5

    return resolve_md5(dataset_md5)
