"""The words that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="An entry of `models`.", show_default=False)]
DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="An entry of `datasets`.", show_default=False)]
ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="The catalog of datasets and models.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change a value of the catalog; repeatable.", show_default=False),
]
Track = Annotated[bool, typer.Option("--track/--no-track", help="Record the run in MLflow, and use its registry.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

DatasetFolder = Annotated[
    Path | None,
    typer.Option("--dataset", metavar="DIR", help="The packed dataset.  [default: data/prepared/<dataset>]"),
]
ModelFolder = Annotated[
    Path | None, typer.Option("--model", metavar="DIR", help="The trained model.  [default: models/MODEL]")
]
EvaluationFolder = Annotated[
    Path | None, typer.Option("--evaluation", metavar="DIR", help="Its evaluation.  [default: reports/MODEL]")
]
ExportFolder = Annotated[
    Path | None, typer.Option("--export", metavar="DIR", help="The exported model.  [default: exports/MODEL]")
]
_EXPORTED = "An exported model: a folder, models:/NAME@ALIAS or models:/NAME/VERSION."
ExportedModel = Annotated[str, typer.Option("--model", metavar="MODEL", help=_EXPORTED, show_default=False)]
ExportedModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=_EXPORTED, show_default=False)]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Where the result goes, instead of the usual place.")
]

PARAMS = Path("params.yaml")
"""Default of ParamsFile."""
