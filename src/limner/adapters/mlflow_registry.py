"""The model registry of MLflow: versions, what they were judged by, and which of them is the champion."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion as StoredVersion
from mlflow.exceptions import MlflowException

from limner.adapters.mlflow_history import Champion, is_lock, shortened, utc_now
from limner.adapters.mlflow_server import MlflowServer, environment, first_line, http_patience
from limner.adapters.mlflow_versions import DATASET, DIGEST, as_version, figure_tags, refuse_changed, store
from limner.errors import LimnerError, suggest
from limner.ports import ModelVersion, Movement
from limner.promotion import ALIAS, CHALLENGER, UNKNOWN, champion_before, refuse_later_movement, refuse_other_champion

ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))")


@dataclass(frozen=True)
class MlflowRegistry:
    """Versions on an MLflow server. Unlike a run's records, a version that cannot be stored is an error."""

    server: MlflowServer
    kubeflow_run: str = ""
    """The pipeline run that this is part of, where it is one: what the history says of who has moved a champion."""

    def names(self) -> tuple[str, ...]:
        """The models that it has, by name."""
        with self._speaking():
            found, token = list[str](), None
            while token != "":
                page = self.server.client.search_registered_models(page_token=token)
                found += [model.name for model in page if not is_lock(model.name)]
                token = page.token or ""
        return tuple(sorted(found))

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """All versions of a model, the newest first. Raises LimnerError where there is no such model."""
        with self._speaking(), self._knowing(name):
            aliases = self.server.client.get_registered_model(name).aliases
            found, token = list[ModelVersion](), None
            while token != "":
                page = self.server.client.search_model_versions(f"name = '{name}'", page_token=token)
                for stored in page:  # a search leaves the aliases out
                    carried = (alias for alias, number in aliases.items() if str(number) == str(stored.version))
                    found.append(replace(as_version(stored), aliases=tuple(sorted(carried))))
                token = page.token or ""
        return tuple(sorted(found, key=lambda version: int(version.number), reverse=True))

    def history(self, name: str) -> tuple[Movement, ...]:
        """How its champion changed, the oldest first. Raises LimnerError where there is no such model."""
        with self._speaking(), self._knowing(name):
            return Champion(self.server.client, name).history()

    def champion(self, name: str) -> ModelVersion | None:
        """The version that carries the alias `champion`, or None where there is none yet."""
        with self._speaking():
            try:
                return as_version(self.server.client.get_model_version_by_alias(name, ALIAS))
            except MlflowException as error:
                if _says_missing(error):
                    return None
                raise

    def trained_on(self, name: str, dataset_md5: str) -> ModelVersion | None:
        """A version that has learnt from these data, or None where there is none."""
        with self._speaking():
            query = f"name = '{name}' and tags.`{DATASET}` = '{dataset_md5}'"
            found = self.server.client.search_model_versions(query, max_results=1)
            return as_version(found[0]) if found else None

    def register(self, candidate: ModelVersion, export: Path, *, run_id: str) -> ModelVersion:
        """Store the exported model as a new version of `candidate.name`, under the training run.

        The same export again returns the version it already is, with the candidate's figures.
        """
        if is_lock(candidate.name):
            raise LimnerError(f"No model can be called {candidate.name!r}.", why="Limner uses this ending itself.")
        figures = figure_tags(candidate)
        with self._speaking():
            stored = self._find(candidate)
            if stored is None:
                made = store(self.server, candidate, export, run_id=run_id, figures=figures)
                stored = self.server.client.get_model_version(made.name, made.version)
            else:
                # What it costs is not among them: that is said of the files that are stored.
                for key, value in figures.items():
                    if stored.tags.get(key) != value:
                        self.server.client.set_model_version_tag(stored.name, stored.version, key, value)
            self._describe(stored, export)
            known = as_version(stored)
            return replace(candidate, number=known.number, aliases=known.aliases, costs=known.costs)

    def challenge(self, version: ModelVersion) -> None:
        """Give it the alias `challenger`, unless the challenger or the champion is newer."""
        with self._speaking(), self._knowing(version.name):
            aliases = self.server.client.get_registered_model(version.name).aliases
            newest = max((int(aliases[alias]) for alias in (ALIAS, CHALLENGER) if alias in aliases), default=0)
            if int(version.number) > newest:
                self.server.client.set_registered_model_alias(version.name, CHALLENGER, version.number)

    def dismiss(self, version: ModelVersion) -> None:
        """Take the alias `challenger` from it, where it has it."""
        with self._speaking(), self._knowing(version.name):
            aliases = self.server.client.get_registered_model(version.name).aliases
            if str(aliases.get(CHALLENGER, "")) == version.number:
                self.server.client.delete_registered_model_alias(version.name, CHALLENGER)

    def promote(
        self,
        version: ModelVersion,
        *,
        instead_of: ModelVersion | None,
        reason: str,
        seen: Sequence[Movement] | None = None,
    ) -> Movement | None:
        """Move the alias `champion`, and write it down; None where this version is the champion already.

        Raises LimnerError where the champion is no longer `instead_of`, where there are later movements than those that
        were `seen` when it was decided, and where somebody else is moving it.
        """
        expected, who, when = instead_of.number if instead_of else "", self._who, utc_now()

        def plan(history: Sequence[Movement]) -> Movement | None:
            now = history[-1].version if history else ""
            if now == version.number:
                return None
            refuse_other_champion(version.name, history, expected)
            if seen is not None:
                refuse_later_movement(version.name, history, seen)
            return Movement("promotion", version.number, now, who, when, shortened(reason))

        with self._speaking(seconds=30, retries=1), self._knowing(version.name):
            client = self.server.client
            client.get_model_version(version.name, version.number)  # the lock is not for what cannot be
            return Champion(client, version.name).move(plan)

    def roll_back(self, name: str, *, expected: str, reason: str) -> Movement:
        """Undo the last promotion that is not undone yet: the champion before is the champion again.

        Raises LimnerError where the champion is no longer version `expected`, where nothing is left to be undone, and
        where the version before is no more.
        """
        who, when = self._who, utc_now()

        def plan(history: Sequence[Movement]) -> Movement:
            refuse_other_champion(name, history, expected)
            version = champion_before(name, history)
            return Movement("rollback", version, expected, who, when, shortened(reason))

        with self._speaking(seconds=30, retries=1), self._knowing(name):
            client = self.server.client
            intended = plan(Champion(client, name).history())
            self._refuse_deleted(name, intended.version)
            movement = Champion(client, name).move(plan)
            assert movement is not None
            return movement

    def fetch(self, address: str, folder: Path) -> Path:
        """The exported model that models:/NAME@ALIAS or models:/NAME/VERSION names, below `folder`.

        Raises LimnerError where there is no such version, where Limner did not register it, and where its files are
        not those that were registered.
        """
        with self._speaking(), environment({"MLFLOW_TRACKING_URI": self.server.uri}):
            stored = self._resolve(address)
            import mlflow.artifacts

            model = mlflow.artifacts.download_artifacts(
                f"models:/{stored.name}/{stored.version}",  # the alias may have moved since
                dst_path=str(folder),
                tracking_uri=self.server.uri,
                registry_uri=self.server.uri,
            )
        found = [path.parent for path in Path(model).glob("artifacts/*/config.json")]
        if len(found) != 1:
            raise LimnerError(f"{address} is no model that Limner has exported.", fix="Name another version.")
        refuse_changed(found[0], address, stored)
        return found[0]

    def _resolve(self, address: str) -> StoredVersion:
        parts = ADDRESS.fullmatch(address)
        if parts is None:
            raise LimnerError(f"{address!r} names no version.", fix="Write models:/NAME@ALIAS or models:/NAME/VERSION.")
        client = self.server.client
        try:
            if parts["alias"]:
                return client.get_model_version_by_alias(parts["name"], parts["alias"])
            return client.get_model_version(parts["name"], parts["number"])
        except MlflowException as error:
            if _says_missing(error):
                raise LimnerError(
                    f"The model registry at {self.server} has no {address}.",
                    why=first_line(error),
                    fix="Promote a model first, or name a version that exists: models:/NAME/VERSION.",
                ) from error
            raise

    @contextmanager
    def _speaking(self, *, seconds: int = 300, retries: int = 3) -> Iterator[None]:
        """Turns MLflow's errors into ours, and waits as long as an upload may take."""
        with http_patience(retries=retries, timeout_seconds=seconds):
            try:
                yield
            except _errors() as error:
                raise self._refusal(error) if _says_forbidden(error) else self._unwell(error) from error

    def _unwell(self, error: Exception) -> LimnerError:
        return LimnerError(
            f"The model registry at {self.server} cannot be used.",
            why=first_line(error),
            fix="Look at the server and at MLFLOW_TRACKING_URI; --no-track does without a registry.",
        )

    def _refusal(self, error: Exception) -> LimnerError:
        return LimnerError(
            f"The model registry at {self.server} does not let us do this.",
            why=first_line(error),
            fix="Ask who keeps it for the permission to write; MLflow takes MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
        )

    @contextmanager
    def _knowing(self, name: str) -> Iterator[None]:
        """Turns MLflow's error of a model or version that does not exist into ours."""
        try:
            yield
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise LimnerError(
                f"The model registry at {self.server} has no such version of {name!r}, or no such model.",
                why=first_line(error),
                fix=f"Look what it has: limner models status. Its models: {suggest(name, self.names())}",
            ) from error

    @property
    def _who(self) -> str:
        """Who moves a champion, for its history."""
        if self.kubeflow_run:
            return f"Kubeflow run {self.kubeflow_run}"
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a container's user need have no name
            user = UNKNOWN
        return shortened(f"{user}@{socket.gethostname()}")

    def _describe(self, stored: StoredVersion, export: Path) -> None:
        """Give the version its model card, for MLflow's pages; an older export has none."""
        from limner.card import short_card

        text = short_card(export)  # empty for an older export, which has none
        if text and stored.description != text:
            self.server.client.update_model_version(stored.name, stored.version, description=text)

    def _refuse_deleted(self, name: str, number: str) -> None:
        try:
            if number:
                self.server.client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise LimnerError(
                f"Version {number} of {name}, the champion before, has been deleted: nothing has moved.",
                why=first_line(error),
                fix=f"Promote another version: limner models status {name}",
            ) from error

    def _find(self, candidate: ModelVersion) -> StoredVersion | None:
        """The version that holds the same export already. Read again, because a search leaves the aliases out."""
        if not candidate.export_digest:
            return None
        query = f"name = '{candidate.name}' and tags.`{DIGEST}` = '{candidate.export_digest}'"
        found = self.server.client.search_model_versions(query, max_results=1)
        return self.server.client.get_model_version(candidate.name, found[0].version) if found else None


def _says_missing(error: MlflowException) -> bool:
    """Whether there is no such model or alias. MLflow has no code of its own for a missing alias."""
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or (
        error.error_code == "INVALID_PARAMETER_VALUE" and "not found" in str(error)
    )


def _errors() -> tuple[type[Exception], ...]:
    """MLflow's, and those of an artifact store on S3, whose library is loaded only when something was raised."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (MlflowException, OSError, Boto3Error, BotoCoreError, ClientError)


def _says_forbidden(error: Exception) -> bool:
    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    else:
        response = getattr(error, "response", None) or {}  # as a ClientError of botocore has it
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(response, dict) else 0
    return status in (401, 403, 405)
