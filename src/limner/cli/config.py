"""config show: what an entry of params.yaml comes to, with all its defaults."""

from __future__ import annotations

import json
import sys

import typer

from limner.cli.options import PARAMS, AsJson, ModelName, Overrides, ParamsFile
from limner.cli.results import print_json

app = typer.Typer(help="Look at the settings.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """Look at the settings."""


@app.command()
def show(
    model: ModelName, *, params: ParamsFile = PARAMS, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Show all settings of a model and of its dataset, the defaults included.

    \b
    Example:
      limner config show digits-gan
      limner config show digits-gan --set models.digits-gan.train.batch=32 --json
    """
    from ruamel.yaml import YAML

    from limner.steps import open_catalog

    document = json.loads(open_catalog(params, overrides or ()).to_json(model))
    if as_json:
        print_json(document)
        return
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(document, sys.stdout)
