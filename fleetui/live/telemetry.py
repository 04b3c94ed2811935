"""What stations say several times a second: kept in this web process only, merged into cards, handed to whoever
watches.

PostgreSQL holds what lasts (states, counts); this holds the newest telemetry of each connected station. A card that a
browser sees is the row's card with this laid over it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleetui.fleet.models import severity, shown_state
from fleetui.live import rewind
from robots.attention import Need, need_of
from robots.protocol import IN_EPISODE, CommandDone, Telemetry

LONGEST_TEXT = 300
TEXTS = ("reason", "instruction", "uuid", "camera_error")
NUMBERS = (
    "step",
    "limit",
    "d",
    "d_start",
    "progress",
    "p_success",
    "bin_width",
    "threshold",
    "version",
    "speed",
    "sent_at",
    "unsent",
    "in_memory",
    "refused",
    "lost",
)
SETTLED_S = 0.9  # a station that resets itself at once calls nobody
AS_FAST_AS_IT_CAN = 20.0  # times real time, about, where a station's speed is 0
TRACE_LIMIT = 5000


class Viewer(Protocol):
    def notice(self, topic: str, slug: str, card: dict[str, Any], urgent: bool) -> None: ...


@dataclass
class Newest:
    """A connected station's newest telemetry as card fields, and d over the steps of its episode."""

    card: dict[str, Any] = field(default_factory=dict)
    code: str = ""  # what the card's reason means
    uuid: str = ""
    trace: list[float | None] = field(default_factory=list)


newest: dict[int, Newest] = {}
_viewers: dict[str, set[Viewer]] = {}
_waiting: dict[tuple[int, str], Callable[[dict[str, Any]], None]] = {}


def read_card(message: Telemetry) -> dict[str, Any]:
    """The card fields of a telemetry message. Its texts are cut: a station must not be able to break the pages of those
    who watch it.
    """
    card = {"state": message.state, "human": message.human, "device": message.device}
    card |= {name: getattr(message, name)[:LONGEST_TEXT] for name in TEXTS}
    for name in NUMBERS:
        value = getattr(message, name)
        if value is not None or name not in ("version", "speed"):  # those the row knows too
            card[name] = value
    card["signals"] = {name[:LONGEST_TEXT]: value for name, value in message.signals.items()}
    card |= {"marks": message.marks, "marks_by": message.marks_by[:LONGEST_TEXT]}
    bins = message.distribution
    card["distribution"] = None if bins is None else [round(mass, 4) for mass in bins]
    return card


def show(
    station: int, topics: tuple[str, ...], slug: str, message: Telemetry, stop_latched: bool, maintenance: bool = False
) -> bool:
    """Keep it and tell the viewers of the topics. True if state or reason changed: then it is worth a row."""
    card = read_card(message)
    urgent = severity(card["state"], stop_latched, maintenance)
    shown = shown_state(card["state"], maintenance)
    card |= {"state": shown, "severity": urgent, "attention": urgent > 0}
    now = newest.setdefault(station, Newest())
    changed = any(card[name] != now.card.get(name) for name in ("state", "reason"))
    now.card, now.code = card, message.code
    _extend_trace(now, card)
    rewind.note(station, card)
    for topic in topics:
        for viewer in _viewers.get(topic, ()):
            viewer.notice(topic, slug, card, changed)
    return changed


def _extend_trace(now: Newest, card: dict[str, Any]) -> None:
    """trace[step] = d; None where telemetry, sent at most 10 times a second, skipped a step."""
    if card["uuid"] and card["uuid"] != now.uuid:  # between two episodes the last one stays to be looked at
        now.uuid, now.trace = card["uuid"], []
    step = card["step"]
    if step is not None and 0 <= step < TRACE_LIMIT and card["uuid"]:
        step = int(step)
        now.trace.extend([None] * (step + 1 - len(now.trace)))
        now.trace[step] = card["d"]


def lay_over(station: int, card: dict[str, Any]) -> dict[str, Any]:
    """The fields of `card` that telemetry knows better, taken from there."""
    live = newest.get(station)
    return card if live is None else card | {name: value for name, value in live.card.items() if name in card}


def need_of_station(
    station: int, body: dict[str, Any], state_for_s: float, stop_latched: bool
) -> tuple[Need | None, str]:
    """(what it needs by its newest telemetry, if that is worth a person's way; the attempt that it is about, or "")"""
    live = newest.get(station)
    if live is None:
        return None, ""
    card = live.card
    if card["state"] == "needs_person" and state_for_s < SETTLED_S:
        return None, ""
    speed = card.get("speed", 1) or AS_FAST_AS_IT_CAN
    under_way = card["state"] in IN_EPISODE
    need = need_of(
        state=card["state"],
        reason=card["reason"],
        code=live.code,
        state_for_s=state_for_s,
        stop_latched=stop_latched,
        p_success=card["p_success"] if under_way else None,
        trace=live.trace,
        step=int(card["step"] or 0),
        limit=int(card["limit"] or 0),
        step_s=1 / (float(body.get("fps") or 5.0) * speed),
    )
    attempt = card["uuid"] if under_way else ""
    return (need if need is not None and need.worth_it else None), attempt


def forget(station: int) -> None:
    newest.pop(station, None)


def add_viewer(topic: str, viewer: Viewer) -> None:
    _viewers.setdefault(topic, set()).add(viewer)


def remove_viewer(topic: str, viewer: Viewer) -> None:
    viewers = _viewers.get(topic, set())
    viewers.discard(viewer)
    if not viewers:
        _viewers.pop(topic, None)


# Answers to commands


def await_answer(station: int, command_id: str, answer: Callable[[dict[str, Any]], None]) -> None:
    _waiting[station, command_id] = answer


def stop_waiting(station: int, command_id: str) -> Callable[[dict[str, Any]], None] | None:
    return _waiting.pop((station, command_id), None)


def answer_command(station: int, done: CommandDone) -> None:
    answer = stop_waiting(station, done.id)
    if answer is not None:
        answer({"ok": done.ok, "error": done.error[:LONGEST_TEXT]})
