"""What a person does with the versions of a model: look at them, promote one, roll back, read the history."""

from __future__ import annotations

from dataclasses import dataclass

from limner.errors import LimnerError, suggest
from limner.params import Catalog
from limner.ports import ModelRegistry, ModelVersion, Movement
from limner.promotion import ALIAS, CHALLENGER, Decision, Verdict, champion_before, decide, named
from limner.settings import PromoteSettings


@dataclass(frozen=True)
class ModelState:
    """A registered model: its versions, the newest first, and the last change of its champion."""

    name: str
    versions: tuple[ModelVersion, ...]
    last_movement: Movement | None

    def carrying(self, alias: str) -> ModelVersion | None:
        """The version that has this alias, or None."""
        return next((version for version in self.versions if alias in version.aliases), None)


@dataclass(frozen=True)
class Moved:
    """What became of a champion, or would become of it.

    `version` and `before` are empty for no version; `movement` is None where nothing has moved.
    """

    name: str
    version: str
    before: str
    verdict: Verdict | None
    reasons: tuple[str, ...]
    movement: Movement | None


def model_state(registry: ModelRegistry, name: str) -> ModelState:
    """What the registry has of a model. Raises LimnerError where it has no such model."""
    versions, history = registry.versions(name), registry.history(name)
    return ModelState(name, versions, history[-1] if history else None)


def policy_of(catalog: Catalog | None, name: str) -> PromoteSettings:
    """The policy of the catalog's model that is registered under `name`; the usual one where there is none.

    Raises LimnerError where models of different policies are.
    """
    if catalog is None:
        return PromoteSettings()
    policies = {model: catalog.model(model).promote for model in catalog.models}
    ours = {model: policy for model, policy in policies.items() if (policy.registered_name or model) == name}
    found = list(ours.values()) or [PromoteSettings()]
    if any(policy.model_copy(update={"registered_name": found[0].registered_name}) != found[0] for policy in found):
        raise LimnerError(
            f"It is not clear which policy {name} has.",
            why=f"Several models are registered under this name: {', '.join(ours)}. They differ in `promote`.",
            fix="Give them the same policy; or another promote.registered_name.",
        )
    return found[0]


def promote_by_hand(  # noqa: PLR0913 - what a person decides
    registry: ModelRegistry,
    name: str,
    wanted: str = f"@{CHALLENGER}",
    *,
    policy: PromoteSettings,
    reason: str = "",
    force: bool = False,
    dry_run: bool = False,
) -> Moved:
    """Make the version `wanted`, a number or an alias behind an @, the champion where the policy says so, or `force`.

    Raises LimnerError where the policy does not say so, and where it is forced without a reason.
    """
    if force and not reason.strip():
        raise LimnerError("A promotion that is forced needs a reason.", fix="Say why: --reason 'so that ...'")
    state = model_state(registry, name)
    version, champion = _find(state, wanted), state.carrying(ALIAS)
    before = champion.number if champion else ""
    if version.number == before:
        return Moved(name, before, before, "promote", (f"Version {before} is the champion already.",), None)
    history = registry.history(name)
    decision = decide(version, champion, policy, history=history)
    if decision.verdict != "promote" and not force:
        raise _refusal(name, version, decision)
    movement = None
    if not dry_run:
        why = " ".join((reason.strip(), f"(The policy: {decision.verdict}.)")) if force else reason.strip()
        movement = registry.promote(
            version, instead_of=champion, reason=why or " ".join(decision.reasons), seen=history
        )
    return Moved(name, version.number, before, decision.verdict, decision.reasons, movement)


def roll_back(registry: ModelRegistry, name: str, *, reason: str = "", dry_run: bool = False) -> Moved:
    """Undo the last promotion that is not undone yet. Raises LimnerError where there is none."""
    history = registry.history(name)
    to, now = champion_before(name, history), history[-1].version
    if to and to not in {version.number for version in registry.versions(name)}:
        raise LimnerError(
            f"Version {to} of {name}, the champion before, has been deleted: nothing has moved.",
            fix=f"Promote another version: limner models promote {name} VERSION --force --reason ...",
        )
    movement = None if dry_run else registry.roll_back(name, expected=now, reason=reason.strip() or "No reason given.")
    return Moved(name, to, now, None, (), movement)


def _find(state: ModelState, wanted: str) -> ModelVersion:
    if wanted.startswith("@"):
        found = state.carrying(wanted[1:])
        known = [f"@{alias}" for version in state.versions for alias in version.aliases]
    else:
        found = next((version for version in state.versions if version.number == wanted), None)
        known = [version.number for version in state.versions]
    if found is None:
        raise LimnerError(
            f"{state.name} has no version {wanted}.",
            why=suggest(wanted, known),
            fix=f"Look at its versions: limner models status {state.name}",
        )
    return found


def _refusal(name: str, version: ModelVersion, decision: Decision) -> LimnerError:
    return LimnerError(
        f"{named(version.number).capitalize()} of {name} is not promoted; the policy says {decision.verdict}.",
        why=" ".join(decision.reasons),
        fix="Promote another one; or this one in spite of it, and say why: --force --reason '...'",
    )
