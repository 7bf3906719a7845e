"""doctor: what would fail later, said now."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.cli import places
from limner.cli.options import PARAMS, AsJson, Overrides, ParamsFile
from limner.cli.results import print_json

if TYPE_CHECKING:
    from limner.findings import Finding

app = typer.Typer()

WORDS = {"ok": "ok", "warning": "warn", "error": "FAIL", "skipped": "-"}


@app.command()
def doctor(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="An entry of `models`: its settings, its data.  [default: all]")
    ] = "",
    *,
    remote: Annotated[
        str, typer.Option("--remote", metavar="S3_URL", help="The DVC remote, s3://bucket/prefix.", show_default=False)
    ] = "",
    dataset_md5: Annotated[
        str,
        typer.Option("--dataset-md5", metavar="MD5", help="The dataset that it has to hold.  [default: see dvc.lock]"),
    ] = "",
    checkpoints: Annotated[
        str, typer.Option("--checkpoints", metavar="S3_URL", help="Where training keeps them.  [LIMNER_CHECKPOINTS]")
    ] = "",
    kubeflow: Annotated[
        str, typer.Option("--kubeflow", metavar="URL", help="Address of Kubeflow's pipelines.", show_default=False)
    ] = "",
    image: Annotated[
        str, typer.Option("--image", metavar="REF", help="The container image of the steps.  [LIMNER_IMAGE]")
    ] = "",
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="That train together on this machine.  [default: torchrun's, or 1]"),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Also store a file in an MLflow run, and delete both again.")
    ] = False,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Tell of problems only.")] = False,
) -> None:
    """Look for what would fail later, and say how to put it right.

    This machine, its libraries, the settings; and the servers that the options and the environment name (MLflow by
    MLFLOW_TRACKING_URI, S3 by AWS_ENDPOINT_URL). Exit status 2 where something would fail.

    \b
    Example:
      limner doctor
      limner doctor digits-gan --remote s3://data/dvc --checkpoints s3://data/runs --write
    """
    from limner.adapters.probes import Probes
    from limner.steps.doctor import Subject
    from limner.steps.doctor import doctor as step

    subject = Subject(
        model=model,
        params=params,
        overrides=overrides or (),
        dataset_md5=dataset_md5,
        prepared=places.dataset(""),
        scratch=places.scratch(""),
        writes_to={
            "results": places.model(""),
            "checkpoints": places.scratch(""),
            "cache": Path(os.environ.get("LIMNER_CACHE") or "runs/cache"),
            "temporary": Path(tempfile.gettempdir()),
        },
        processes=processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        image=image or os.environ.get("LIMNER_IMAGE", ""),
        in_pod="KUBERNETES_SERVICE_HOST" in os.environ,
    )
    found = step(subject, outside=Probes(checkpoints, remote, kubeflow, write))
    shown = [finding for finding in found.findings if not quiet or finding.status in ("warning", "error")]
    if as_json:
        print_json([asdict(finding) for finding in shown])
    else:
        _print(shown)
    if not found.sound:
        sys.exit(2)


def _print(findings: Sequence[Finding]) -> None:
    """A line each, not wrapped: who searches a log for a word finds the whole of it."""
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        print(f"{WORDS[finding.status]:4}  {finding.check:{width}}  {finding.what}")
        if finding.fix and finding.status != "ok":
            print(f"{'':4}  {'':{width}}  -> {finding.fix}")
