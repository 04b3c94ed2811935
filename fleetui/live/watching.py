"""What a browser's socket is shown: the wall, a station, a run, frames.

Each subscription is authorised, then gets a snapshot, then deltas, counted by `seq`. Two streams become deltas: events
of the actions, numbered by Valkey so that a lost one is seen and mended by a new snapshot, and telemetry of this
process, of which only the newest counts. Frames are latest-only too: a slow viewer gets fewer, never older ones.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis.asyncio
from django.conf import settings
from redis.exceptions import RedisError

from fleetui import access, messages
from fleetui.fleet import selectors as fleet
from fleetui.fleet.models import Station
from fleetui.learning import selectors as learning
from fleetui.learning.models import Run
from fleetui.live import frames, telemetry
from fleetui.live.browser_messages import text_of
from fleetui.live.hearing import get_hearing
from fleetui.live.sockets import BadRequest, PersonSocket, in_thread

SUBSCRIPTIONS_LIMIT = 200
# A card on the wall moves at most 5 times a second; the page of one station shows every message.
EVERY_S = {"wall": 0.19, "station": 0.08}
QUIET_AFTER_S = 5.0  # a page that answers no heartbeat for so long gets no pictures
COMPARE_NUMBERS_S = 4.0  # how often lost events are looked for
VALKEY_WITHIN_S = 1.0


@dataclass
class Subscription:
    """One topic of one viewer: what it was sent last, so that a delta holds changes only."""

    kind: str
    lab: str
    key: str  # station slug or run id
    topic: str
    seq: int = 0
    number: int | None = None  # of the newest event, as Valkey counts them; None: it could not be asked
    metric: int = 0  # newest metric sent
    live: bool = False  # the snapshot is out
    stations: dict[str, int] = field(default_factory=dict)  # slug -> id
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)  # slug -> card fields as the viewer has them
    sent_at: dict[str, float] = field(default_factory=dict)


class Watching:
    """The subscriptions of one socket. It begins and ends with the socket."""

    def __init__(self, socket: PersonSocket) -> None:
        self.socket = socket
        self.subscriptions: dict[str, Subscription] = {}
        self.watches: dict[tuple[str, str, str], frames.Watch] = {}  # by lab, station and camera
        self.pending: dict[tuple[str, str], tuple[dict[str, Any], bool]] = {}
        self.telemetry_there, self.frames_there = asyncio.Event(), asyncio.Event()
        self.numbers = redis.asyncio.Redis.from_url(settings.CHANNELS_ADDRESS, socket_timeout=VALKEY_WITHIN_S)

    def begin(self) -> None:
        for part in (self.send_telemetry, self.send_frames, self.compare_numbers):
            self.socket.spawn(part())

    async def end(self) -> None:
        for watch in self.watches.values():
            frames.remove_watch(watch)
        for topic in list(self.subscriptions):
            await self.drop(topic)
        await self.numbers.aclose()

    def labs(self) -> set[str]:
        """The labs that are shown."""
        return {each.lab for each in self.subscriptions.values()} | {lab for lab, *_ in self.watches}

    # Subscriptions

    async def subscribe(self, message: dict[str, Any]) -> None:
        kind = message["subscribe"]
        if kind == "frames":
            await self.watch_frames(message)
            return
        wanted = await in_thread(self.authorise)(kind, message)
        if len(self.subscriptions) >= SUBSCRIPTIONS_LIMIT:
            raise BadRequest("That are too many subscriptions for one socket; unsubscribe some.")
        if wanted.topic in self.subscriptions:
            await self.drop(wanted.topic)
        self.subscriptions[wanted.topic] = wanted
        # Joined before the snapshot is read, so that nothing falls between the two.
        await get_hearing().join(messages.group_of(wanted.topic), self.take_event)
        telemetry.add_viewer(wanted.topic, self)
        await self.send_snapshot(wanted)

    def authorise(self, kind: Any, message: dict[str, Any]) -> Subscription:
        lab, user = text_of(message, "lab"), self.socket.user
        if kind == "wall":
            return Subscription(kind, lab, "", access.get_lab(user, lab).wall_topic)
        if kind == "station":
            slug = text_of(message, "station")
            return Subscription(kind, lab, slug, access.get_row(Station, user, lab, slug=slug).topic)
        if kind == "run":
            number = message.get("run")
            if isinstance(number, str) and number.isdecimal():
                number = int(number)
            if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**62:
                raise BadRequest("run must be the run's number.")
            return Subscription(kind, lab, str(number), access.get_row(Run, user, lab, pk=number).topic)
        raise BadRequest(f"There is nothing called {kind!r} to subscribe to; try wall, station, run or frames.")

    async def unsubscribe(self, message: dict[str, Any]) -> None:
        if message["unsubscribe"] == "frames":
            watch = self.watches.pop((text_of(message, "lab"), text_of(message, "station"), camera_of(message)), None)
            if watch:
                frames.remove_watch(watch)
            return
        lab = text_of(message, "lab")
        kind = text_of(message, "unsubscribe")
        key = {"wall": "", "station": str(message.get("station")), "run": str(message.get("run"))}.get(kind)
        for subscription in list(self.subscriptions.values()):
            if (subscription.kind, subscription.lab, subscription.key) == (kind, lab, key):
                await self.drop(subscription.topic)

    async def drop(self, topic: str) -> None:
        telemetry.remove_viewer(topic, self)
        del self.subscriptions[topic]
        self.pending = {key: value for key, value in self.pending.items() if key[0] != topic}
        await get_hearing().leave(messages.group_of(topic), self.take_event)

    async def send_snapshot(self, subscription: Subscription) -> None:
        subscription.live = False
        # Whatever was numbered up to here was committed before, so the snapshot holds it.
        [subscription.number] = await self.read_numbers([subscription])
        data = await in_thread(self.read_snapshot)(subscription)
        await self.send_topic(subscription, "snapshot", data)
        subscription.live = True

    def read_snapshot(self, subscription: Subscription) -> dict[str, Any]:
        """Reads the database in a thread, and authorises anew: a role may have been taken away meanwhile."""
        user, lab_slug = self.socket.user, subscription.lab
        if subscription.kind == "run":
            data = learning.run_snapshot(access.get_row(Run, user, lab_slug, pk=int(subscription.key)))
            subscription.metric = data["metrics"][-1]["seq"] if data["metrics"] else 0
            return data
        if subscription.kind == "station":
            station = access.get_row(Station, user, lab_slug, slug=subscription.key)
            card = telemetry.lay_over(station.pk, fleet.station_card(station))
            subscription.stations, subscription.sent = {station.slug: station.pk}, {station.slug: dict(card)}
            live = telemetry.newest.get(station.pk)
            return card | {"trace": list(live.trace) if live else [], "recent": fleet.recent_episodes(station)}
        lab = access.get_lab(user, lab_slug)
        subscription.stations = dict(lab.stations.values_list("slug", "pk"))
        cards = [telemetry.lay_over(subscription.stations[card["slug"]], card) for card in fleet.wall_cards(lab)]
        cards.sort(key=lambda card: (-card["severity"], card["number"]))
        subscription.sent = {card["slug"]: dict(card) for card in cards}
        return {"stations": cards, "counts": fleet.count_states(cards)}

    async def send_topic(self, subscription: Subscription, kind: str, data: dict[str, Any]) -> None:
        subscription.seq += 1
        message = {"topic": subscription.topic, "seq": subscription.seq, "type": kind, "data": data}
        if kind == "snapshot":
            # Pages count ages by these clocks, not by the browser's.
            message |= {"server_time": time.time(), "clock": time.monotonic()}
        await self.socket.say(message)

    # Events of the actions, through the channel layer

    async def read_numbers(self, subscriptions: list[Subscription]) -> list[int | None]:
        """The newest number of each one's topic; None for all where Valkey does not say."""
        try:
            async with asyncio.timeout(VALKEY_WITHIN_S):
                numbers = await self.numbers.mget([messages.number_key(each.topic) for each in subscriptions])
        except (RedisError, TimeoutError, OSError):
            return [None] * len(subscriptions)
        return [int(number or 0) for number in numbers]

    async def compare_numbers(self) -> None:
        """Where an event was lost and no later one shows the gap (Valkey was away, or was emptied), the page gets all
        of it anew.
        """
        before: dict[str, int] = {}  # numbers at the last look: long enough ago for their events to have come
        answered = True
        while True:
            await asyncio.sleep(COMPARE_NUMBERS_S)
            live = [each for each in self.subscriptions.values() if each.live]
            answers = await self.read_numbers(live) if live else []
            numbers = [number for number in answers if number is not None]
            if len(numbers) < len(live):
                answered = False
                continue
            for each, number in zip(live, numbers, strict=True):
                then = before.get(each.topic, 0)
                if not answered or each.number is None or each.number < then or number < then:
                    self.socket.do(partial(self.renew_snapshot, each.topic))
            before = {each.topic: number for each, number in zip(live, numbers, strict=True)}
            answered = True

    async def renew_snapshot(self, topic: str) -> None:
        if topic in self.subscriptions:
            await self.send_snapshot(self.subscriptions[topic])

    def take_event(self, event: dict[str, Any]) -> None:
        if event["topic"] in self.subscriptions and not self.socket.over:
            with contextlib.suppress(BadRequest):  # too much waits: it is lost, and compare_numbers sees that
                self.socket.do(partial(self.live_event, event))

    async def live_event(self, event: dict[str, Any]) -> None:
        subscription = self.subscriptions.get(event["topic"])
        if subscription is None or event["number"] == subscription.number:
            return
        if subscription.number is None or event["number"] > subscription.number + 1:  # something was dropped
            await self.send_snapshot(subscription)
            return
        if event["number"] < subscription.number:
            # Either the snapshot holds it already, or Valkey was emptied and counts anew.
            [newest] = await self.read_numbers([subscription])
            if newest is None or newest < subscription.number:
                await self.send_snapshot(subscription)
            return
        subscription.number = event["number"]
        data = event["data"]
        if "card" in data:
            await self.send_card(subscription, data["card"])
            return
        if "metrics" in data:
            fresh = [row for row in data["metrics"] if row["seq"] > subscription.metric]
            if not fresh:
                return
            subscription.metric = fresh[-1]["seq"]
            data = {"metrics": fresh}
        await self.send_topic(subscription, "delta", data)

    async def send_card(self, subscription: Subscription, card: dict[str, Any]) -> None:
        """A station's row changed; where its telemetry knows better, that stands."""
        slug = card["slug"]
        if slug not in subscription.stations:  # a new station: the viewer has no card to change yet
            await self.send_snapshot(subscription)
            return
        if card.get("connected") is False:  # nothing of an episode is true any more
            card = fleet.NOT_LIVE | card
        await self.send_changes(subscription, telemetry.lay_over(subscription.stations[slug], card))

    async def send_changes(self, subscription: Subscription, card: dict[str, Any]) -> None:
        slug = card["slug"]
        known = subscription.sent.setdefault(slug, {})
        changed = {name: value for name, value in card.items() if name not in known or known[name] != value}
        if changed:
            known.update(changed)
            await self.send_topic(subscription, "delta", {"card": {"slug": slug} | changed})

    # Telemetry of this process

    def notice(self, topic: str, slug: str, card: dict[str, Any], urgent: bool) -> None:
        _, was_urgent = self.pending.get((topic, slug), (None, False))
        self.pending[topic, slug] = (card, urgent or was_urgent)
        self.telemetry_there.set()

    async def send_telemetry(self) -> None:
        """The newest card of each station, at the pace of its topic; a change of state doesn't wait."""
        while True:
            await self.telemetry_there.wait()
            self.telemetry_there.clear()
            now, left = time.monotonic(), False
            for (topic, slug), (card, urgent) in list(self.pending.items()):
                subscription = self.subscriptions.get(topic)
                if subscription is None:
                    self.pending.pop((topic, slug), None)
                elif not subscription.live or (
                    not urgent and now - subscription.sent_at.get(slug, 0.0) < EVERY_S[subscription.kind]
                ):
                    left = True
                elif slug in subscription.stations:
                    self.pending.pop((topic, slug), None)
                    subscription.sent_at[slug] = now
                    await self.send_changes(subscription, {"slug": slug} | card)
                else:  # a new station, whose card the wall doesn't have yet; its event brings a snapshot
                    self.pending.pop((topic, slug), None)
            if left:
                await asyncio.sleep(0.02)
                self.telemetry_there.set()

    # Frames

    async def watch_frames(self, message: dict[str, Any]) -> None:
        lab, slug, camera = text_of(message, "lab"), text_of(message, "station"), camera_of(message)
        fps, size = message.get("fps", 5), message.get("size", "small")
        if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= frames.FPS_LIMIT:
            raise BadRequest(f"fps must be a number above 0, at most {frames.FPS_LIMIT}.")
        if size not in frames.SIZES:
            raise BadRequest(f"size must be one of {', '.join(frames.SIZES)}.")
        station = await in_thread(access.get_row)(Station, self.socket.user, lab, slug=slug)
        names = [each.name for each in station.cameras]
        if camera and names and camera not in names:
            raise BadRequest(f"{station} has no camera {camera[:60]!r}; it has {', '.join(names)}.")
        if len(self.watches) >= SUBSCRIPTIONS_LIMIT:
            raise BadRequest("That are too many cameras for one socket; unsubscribe some.")
        before = self.watches.pop((lab, slug, camera), None)
        watch = frames.Watch(station.pk, slug, camera, fps, size, self.frames_there.set)
        self.watches[lab, slug, camera] = watch
        frames.add_watch(watch)
        if before is not None:
            frames.remove_watch(before)
        self.frames_there.set()

    async def send_frames(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.frames_there.wait()
            self.frames_there.clear()
            if self.socket.silent_s() > QUIET_AFTER_S:
                loop.call_later(1.0, self.frames_there.set)
                continue
            soonest = None
            for watch in list(self.watches.values()):
                frame = frames.newest_for(watch)
                if frame is None or frame is watch.sent:
                    continue
                now = loop.time()
                if now < watch.next_at:
                    soonest = min(watch.next_at, soonest or watch.next_at)
                    continue
                # The next one is due a period after this one was, so that a late frame doesn't lower the rate.
                watch.next_at = max(watch.next_at, now - 0.5 / watch.fps) + 1 / watch.fps
                watch.sent = frame
                slug = watch.slug.encode()
                await self.socket.send_out(bytes_data=len(slug).to_bytes(2, "big") + slug + frame)
            if soonest is not None:
                loop.call_at(soonest, self.frames_there.set)


def camera_of(message: dict[str, Any]) -> str:
    """The name of the camera that a message means; "": the station's first."""
    camera = message.get("camera", "")
    if not isinstance(camera, str):
        raise BadRequest("camera must be the name of one of the station's cameras, or left out for its first.")
    return camera
