"""Worlds and demonstrators that other Python packages bring, by their entry points (docs/worlds.md).

    fleetui.worlds          a WorldSpec, several, or a function that returns such
    fleetui.demonstrators   named like a world: a scripted policy (robots/demonstrators.py) where that world has none

A world's entry point is imported by every process, so its module should import no simulator; a demonstrator's only when
it is first used. One that fails is a sentence in the log, and the others go on.
"""

import dataclasses
import logging
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from robots.worlds import WORLDS, WorldError, WorldSpec, on_demand, register

log = logging.getLogger(__name__)


def register_packages() -> None:
    """Register what the installed packages bring, after all that is known already and whose names they can't take."""
    for entry in _sorted("fleetui.worlds"):
        try:
            for spec in _specs(entry.load()):
                register(spec)
        except (Exception, SystemExit) as error:  # anybody's code runs here
            words = str(error) or type(error).__name__
            log.error("The package %s brings the world %s, which can't be used: %s", _package(entry), entry.name, words)
    for entry in _sorted("fleetui.demonstrators"):
        world = WORLDS.get(entry.name)
        if world is not None and world.demonstrate is None:
            by = on_demand("robots.demonstrators:demonstrate_by", entry.value, _package(entry))
            WORLDS[entry.name] = dataclasses.replace(world, demonstrate=by)


def _sorted(group: str) -> list[EntryPoint]:
    """In an order that doesn't hang on how the packages were installed."""
    return sorted(entry_points(group=group), key=lambda entry: (_package(entry), entry.name))


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module


def _specs(brought: Any) -> Iterable[WorldSpec]:
    if callable(brought):
        brought = brought()
    if isinstance(brought, WorldSpec):
        brought = (brought,)
    specs = tuple(brought) if isinstance(brought, Iterable) else (None,)
    if not all(isinstance(spec, WorldSpec) for spec in specs):
        raise WorldError("it is neither a WorldSpec nor several of them; see docs/worlds.md.")
    for spec in specs:
        spec.embodiment.check()
    return specs
