"""/ws/live: a browser's socket. It subscribes to the wall, a station, a run or frames, and sends commands to stations.

Each subscription is authorised, then gets a snapshot, then deltas, counted by `seq`. Two streams become deltas: events
of the actions, numbered by Valkey so that a lost one is seen and mended by a new snapshot, and telemetry of this
process, of which only the newest counts. Frames are latest-only too: a slow viewer gets fewer, never older ones.

An override belongs to the socket that took it. The browser beats every 400 ms; each beat renews the lease and is passed
on to the station. When the socket closes or the beats end, the lease ends too, whatever the browser was doing.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

import redis.asyncio
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, DataError
from django.http import HttpRequest
from django.utils import timezone

from fleetui import access, messages
from fleetui.fleet import actions
from fleetui.fleet import selectors as fleet
from fleetui.fleet.actions.audit import source
from fleetui.fleet.models import Station
from fleetui.learning import selectors as learning
from fleetui.live import frames, telemetry
from fleetui.live.stations import in_thread, tell_at_once
from robots import strict_json

log = logging.getLogger(__name__)

LARGEST_TEXT = 64 * 1024
SUBSCRIPTIONS_LIMIT = 200
# A card on the wall moves at most 5 times a second; the page of one station shows every message.
EVERY_S = {"wall": 0.19, "station": 0.08}
FORBIDDEN = 4403
NOTE_SEEN_S = 60.0
RECHECK_S = 1.5  # so long may a socket outlive its log-in, its user's membership or role; 2 s with the asking
BEAT_LOST_S = 2.0  # from the newest beat to the end of the lease; the row in PostgreSQL says the same
WATCH_BEATS_S = 0.1


class BadRequest(ValueError):
    """The message makes no sense; the text says why."""


@dataclass
class Subscription:
    """One topic of one viewer: what it was sent last, so that a delta holds changes only."""

    kind: str
    lab: str
    key: str  # station slug or run id
    topic: str
    seq: int = 0
    number: int = 0  # of the newest event, as Valkey counts them
    metric: int = 0  # newest metric sent
    live: bool = False  # the snapshot is out
    stations: dict[str, int] = field(default_factory=dict)  # slug -> id
    sent: dict[str, dict] = field(default_factory=dict)  # slug -> card fields as the viewer has them
    sent_at: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Held:
    """A station that this socket took control of."""

    station: Station
    epoch: int
    beat_at: float
    renewing: bool = False


class LiveConsumer(AsyncWebsocketConsumer):
    async def connect(self):
        self.user = self.scope["user"]
        self.subscriptions: dict[str, Subscription] = {}
        self.watches: dict[tuple[str, str], frames.Watch] = {}
        self.held: dict[tuple[str, str], Held] = {}
        self.pending: dict[tuple[str, str], tuple[dict, bool]] = {}
        self.tasks: list[asyncio.Task] = []
        self.numbers, self.noted_seen = None, -NOTE_SEEN_S
        if not self.user.is_authenticated or not is_same_origin(self.scope):
            await self.close(FORBIDDEN)
            return
        self.roles = await in_thread(access.get_roles)(self.user)
        await self.accept()
        self.numbers = redis.asyncio.Redis.from_url(settings.CHANNELS_ADDRESS, socket_timeout=5)
        self.telemetry_there, self.frames_there = asyncio.Event(), asyncio.Event()
        self.tasks = [
            asyncio.create_task(part())
            for part in (self.send_telemetry, self.send_frames, self.close_when_unwelcome, self.watch_beats)
        ]

    async def disconnect(self, code):
        for held in list(self.held.values()):
            await self.let_go(held)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for watch in self.watches.values():
            frames.remove_watch(watch)
        for topic in list(self.subscriptions):
            await self.drop(topic)
        if self.numbers is not None:
            await self.numbers.aclose()

    async def receive(self, text_data=None, bytes_data=None):
        message = None
        try:
            if text_data is None or len(text_data) > LARGEST_TEXT:
                raise BadRequest("Send JSON text of at most 64 KiB.")
            message = strict_json.loads(text_data)
            if not isinstance(message, dict):
                raise BadRequest("Send a JSON object.")
            if "subscribe" in message:
                await self.subscribe(message)
            elif "unsubscribe" in message:
                await self.unsubscribe(message)
            elif "command" in message:
                await self.command(message["command"])
            elif "beat" in message:
                await self.beat(message["beat"])
            else:
                raise BadRequest("Send subscribe, unsubscribe, command or beat.")
        except (access.Refused, BadRequest) as error:
            await self.say({"error": str(error), "for": message})
        except DataError:
            await self.say({"error": "A value is too long, too large or no text at all.", "for": message})
        except ValueError as error:
            said = str(error) if isinstance(error, strict_json.JSONError) else "This makes no sense."
            await self.say({"error": said, "for": None})

    async def close_when_unwelcome(self):
        """The socket was opened by a session, and must not outlive it; nor show a lab to who has left it."""
        while True:
            await asyncio.sleep(RECHECK_S)
            with contextlib.suppress(DatabaseError):  # asked again soon
                if not await in_thread(self.is_welcome)():
                    await self.close(FORBIDDEN)

    def is_welcome(self) -> bool:
        request = HttpRequest()
        request.session = SessionStore(self.scope["session"].session_key)
        if not get_user(request).is_authenticated:
            return False
        labs = {each.lab for each in self.subscriptions.values()} | {lab for lab, _ in self.watches}
        now = access.get_roles(self.user)
        if labs and time.monotonic() - self.noted_seen > NOTE_SEEN_S:
            self.noted_seen = time.monotonic()
            actions.note_seen(user=self.user, labs=list(labs))
        # The page of another role offers other acts: it is drawn anew, as after a log-out.
        return all(lab in now and now[lab] == self.roles.get(lab) for lab in labs)

    # Subscriptions

    async def subscribe(self, message):
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
        await self.channel_layer.group_add(messages.group_of(wanted.topic), self.channel_name)
        telemetry.add_viewer(wanted.topic, self)
        await self.send_snapshot(wanted)

    def authorise(self, kind, message) -> Subscription:
        lab, user = text_of(message, "lab"), self.user
        if kind == "wall":
            return Subscription(kind, lab, "", access.get_lab(user, lab).wall_topic)
        if kind == "station":
            slug = text_of(message, "station")
            return Subscription(kind, lab, slug, access.get_station(user, lab, slug).topic)
        if kind == "run":
            number = message.get("run")
            if isinstance(number, str) and number.isdecimal():
                number = int(number)
            if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**62:
                raise BadRequest("run must be the run's number.")
            return Subscription(kind, lab, str(number), access.get_run(user, lab, number).topic)
        raise BadRequest(f"There is nothing called {kind!r} to subscribe to; try wall, station, run or frames.")

    async def unsubscribe(self, message):
        if message["unsubscribe"] == "frames":
            watch = self.watches.pop((text_of(message, "lab"), text_of(message, "station")), None)
            if watch:
                frames.remove_watch(watch)
            return
        lab = text_of(message, "lab")
        kind = text_of(message, "unsubscribe")
        key = {"wall": "", "station": str(message.get("station")), "run": str(message.get("run"))}.get(kind)
        for subscription in list(self.subscriptions.values()):
            if (subscription.kind, subscription.lab, subscription.key) == (kind, lab, key):
                await self.drop(subscription.topic)

    async def drop(self, topic):
        telemetry.remove_viewer(topic, self)
        del self.subscriptions[topic]
        self.pending = {key: value for key, value in self.pending.items() if key[0] != topic}
        await self.channel_layer.group_discard(messages.group_of(topic), self.channel_name)

    async def send_snapshot(self, subscription):
        subscription.live = False
        # Whatever was numbered up to here was committed before, so the snapshot holds it.
        subscription.number = int(await self.numbers.get(messages.number_key(subscription.topic)) or 0)
        data = await in_thread(self.read_snapshot)(subscription)
        await self.send_topic(subscription, "snapshot", data)
        subscription.live = True

    def read_snapshot(self, subscription) -> dict:
        """Reads the database in a thread, and authorises anew: a role may have been taken away meanwhile."""
        user, lab_slug = self.user, subscription.lab
        if subscription.kind == "run":
            data = learning.run_snapshot(access.get_run(user, lab_slug, int(subscription.key)))
            subscription.metric = data["metrics"][-1]["seq"] if data["metrics"] else 0
            return data
        if subscription.kind == "station":
            station = access.get_station(user, lab_slug, subscription.key)
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

    async def send_topic(self, subscription, kind, data):
        subscription.seq += 1
        message = {"topic": subscription.topic, "seq": subscription.seq, "type": kind, "data": data}
        if kind == "snapshot":
            message["server_time"] = time.time()  # pages count ages by this clock, not by the browser's
        await self.say(message)

    # Events of the actions, through the channel layer

    async def live_event(self, event):
        subscription = self.subscriptions.get(event["topic"])
        if subscription is None or event["number"] <= subscription.number:
            return
        if event["number"] > subscription.number + 1:  # the layer dropped something
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

    async def send_card(self, subscription, card):
        """A station's row changed; where its telemetry knows better, that stands."""
        slug = card["slug"]
        if slug not in subscription.stations:  # a new station: the viewer has no card to change yet
            await self.send_snapshot(subscription)
            return
        if card.get("connected") is False:  # nothing of an episode is true any more
            card = fleet.NOT_LIVE | card
        await self.send_changes(subscription, telemetry.lay_over(subscription.stations[slug], card))

    async def send_changes(self, subscription, card):
        slug = card["slug"]
        known = subscription.sent.setdefault(slug, {})
        changed = {name: value for name, value in card.items() if name not in known or known[name] != value}
        if changed:
            known.update(changed)
            await self.send_topic(subscription, "delta", {"card": {"slug": slug} | changed})

    # Telemetry of this process

    def notice(self, topic, slug, card, urgent):
        _, was_urgent = self.pending.get((topic, slug), (None, False))
        self.pending[topic, slug] = (card, urgent or was_urgent)
        self.telemetry_there.set()

    async def send_telemetry(self):
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

    async def watch_frames(self, message):
        lab, slug = text_of(message, "lab"), text_of(message, "station")
        fps, size = message.get("fps", 5), message.get("size", "small")
        if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= frames.FPS_LIMIT:
            raise BadRequest(f"fps must be a number above 0, at most {frames.FPS_LIMIT}.")
        if size not in frames.SIZES:
            raise BadRequest(f"size must be one of {', '.join(frames.SIZES)}.")
        station = await in_thread(access.get_station)(self.user, lab, slug)
        if len(self.watches) >= SUBSCRIPTIONS_LIMIT:
            raise BadRequest("That are too many cameras for one socket; unsubscribe some.")
        before = self.watches.pop((lab, slug), None)
        watch = self.watches[lab, slug] = frames.Watch(station.pk, slug, fps, size, self.frames_there.set)
        frames.add_watch(watch)
        if before is not None:
            frames.remove_watch(before)
        self.frames_there.set()

    async def send_frames(self):
        loop = asyncio.get_running_loop()
        while True:
            await self.frames_there.wait()
            self.frames_there.clear()
            soonest = None
            for watch in list(self.watches.values()):
                frame = frames.newest.get(watch.station)
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
                await self.send(bytes_data=len(slug).to_bytes(2, "big") + slug + frame)
            if soonest is not None:
                loop.call_at(soonest, self.frames_there.set)

    # Commands

    async def command(self, command):
        if not isinstance(command, dict):
            raise BadRequest("command must be an object: {id, lab, station, name, args, ttl_ms, sent_at}.")
        command_id, name, ttl_ms = (
            str(command.get("id") or uuid4())[:80],
            command.get("name"),
            command.get("ttl_ms", 5000),
        )
        station = None
        source.set("page")
        try:
            refuse_late(command, name, ttl_ms)
            if name == "drive":
                await self.drive(command, command_id, ttl_ms)
                return
            station = await in_thread(access.get_station)(
                self.user, text_of(command, "lab"), text_of(command, "station")
            )
            wish = {"user": self.user, "lab_slug": command["lab"], "station_slug": command["station"], "name": name}
            granted = {"epoch": 0}
            telemetry.await_answer(
                station.pk, command_id, lambda answer: self.answer_soon(station, name, command_id, granted, answer)
            )
            granted |= await in_thread(actions.command_station)(
                **wish, args=command.get("args"), ttl_ms=ttl_ms, command_id=command_id
            )
            if name == "override":
                held = Held(station, granted["epoch"], time.monotonic())
                self.held[command["lab"], command["station"]] = held
                await self.tell_control(held, True)
            elif name in ("hand_back", "stop", "pause"):  # each of them ended an override, if there was one
                await self.forget_control((command["lab"], command["station"]), "")
        except (access.Refused, BadRequest) as error:
            if station is not None:
                telemetry.stop_waiting(station.pk, command_id)
            await self.answer(command_id, {"ok": False, "error": str(error)})
            return
        asyncio.get_running_loop().call_later(ttl_ms / 1000 + 1, self.give_up, station, command_id, name)

    async def drive(self, command, command_id, ttl_ms):
        """Ten times a second, so without the database: the beats renew and authorise, and the station refuses what
        comes from an older epoch.
        """
        held = self.held.get((text_of(command, "lab"), text_of(command, "station")))
        if held is None or time.monotonic() - held.beat_at > BEAT_LOST_S:
            raise access.Conflict("This page is not in control of the station: take control (override) first.")
        args = command.get("args") or {}
        message = {
            "type": "command",
            "id": command_id,
            "name": "drive",
            "args": actions.checked_args("drive", args),
            "ttl_ms": min(ttl_ms, actions.DRIVE_TTL_MS),
            "sent_at": time.time() - age_of(command),
            "epoch": held.epoch,
            "by": self.user.get_username(),
        }
        if not await tell_at_once(held.station.pk, message):
            raise access.Conflict(f"{held.station} is offline, so it can't be driven.")

    # Control: the beats of this browser

    async def beat(self, beat):
        if not isinstance(beat, dict):
            raise BadRequest("beat must be an object: {lab, station, sent_at}.")
        held = self.held.get((text_of(beat, "lab"), text_of(beat, "station")))
        if held is None:
            raise BadRequest("This page is not in control of the station: take control (override) first.")
        if age_of(beat) > BEAT_LOST_S:
            return
        held.beat_at = time.monotonic()
        sign = {"type": "beat", "epoch": held.epoch, "sent_at": time.time() - age_of(beat)}
        await tell_at_once(held.station.pk, sign)
        await self.say({"beat": {"station": held.station.slug, "server_time": time.time()}})
        if not held.renewing:
            held.renewing = True
            asyncio.ensure_future(self.renew(held, timezone.now()))

    async def renew(self, held, heard_at):
        """A beat counts only while its user is logged in and may command; the row decides who is in control."""
        try:
            if not await in_thread(self.is_welcome)():
                await self.let_go(held)
                await self.close(FORBIDDEN)
                return
            await in_thread(actions.renew_control)(
                user=self.user,
                lab_slug=held.station.lab.slug,
                station_slug=held.station.slug,
                epoch=held.epoch,
                heard_at=heard_at,
            )
        except access.Refused as error:
            await self.let_go(held, str(error))
        except DatabaseError:
            log.exception("A beat could not be written")  # two seconds of that, and the lease has ended
        finally:
            held.renewing = False

    async def watch_beats(self):
        while True:
            await asyncio.sleep(WATCH_BEATS_S)
            for held in list(self.held.values()):
                if time.monotonic() - held.beat_at > BEAT_LOST_S:
                    await self.let_go(held, "No sign of life came from this page for two seconds.")

    async def let_go(self, held, why=""):
        """The lease ends and the station holds still, until a person takes over or hands back."""
        await self.forget_control((held.station.lab.slug, held.station.slug), why, held)
        await tell_at_once(held.station.pk, {"type": "lapse", "epoch": held.epoch})
        with contextlib.suppress(DatabaseError):  # it then expires by itself
            await in_thread(actions.lapse_control)(station=held.station, epoch=held.epoch)

    async def forget_control(self, key, why, held=None):
        if key in self.held and held in (None, self.held[key]):
            await self.tell_control(self.held.pop(key), False, why)

    async def tell_control(self, held, holds, why=""):
        control = {"lab": held.station.lab.slug, "station": held.station.slug, "held": holds, "epoch": held.epoch}
        await self.say({"control": control | {"why": why}})

    def give_up(self, station, command_id, name):
        """A group may drop a message, and a station may hang: the person must hear of it."""
        answer = telemetry.stop_waiting(station.pk, command_id)
        if answer is None:
            return
        if not station.connected:  # it is kept in the station's row and told on its return
            answer({"ok": True, "error": ""})
        else:
            answer(
                {
                    "ok": False,
                    "error": f"{station} did not answer to {name.replace('_', ' ')}; look at it, then try again.",
                }
            )

    def answer_soon(self, station, name, command_id, granted, answer):
        asyncio.ensure_future(self.answer(command_id, answer))
        if name == "override" and not answer["ok"]:
            asyncio.ensure_future(self.take_refusal(station, granted))

    async def take_refusal(self, station, granted):
        """The station did not let itself be taken over: nobody holds it, and the policy goes on."""
        await self.forget_control((station.lab.slug, station.slug), "")
        if granted["epoch"]:
            await in_thread(actions.undo_override)(station=station, epoch=granted["epoch"])

    async def answer(self, command_id, answer):
        await self.say({"command_done": {"id": command_id} | answer})

    async def say(self, message):
        with contextlib.suppress(RuntimeError):  # the browser has gone meanwhile
            await self.send(strict_json.dumps(message))


def age_of(message: dict) -> float:
    """Seconds since the browser sent it, by the server's clock as the browser knows it from the snapshots."""
    sent_at = message.get("sent_at")
    if sent_at is None:
        return 0.0
    if isinstance(sent_at, bool) or not isinstance(sent_at, (int, float)) or not 0 <= sent_at < 1e12:
        raise BadRequest("sent_at must be the server's time in seconds.")
    return max(0.0, time.time() - sent_at)


def refuse_late(command: dict, name, ttl_ms) -> None:
    """A click that waited on the way here must not act late either; only a stop is never too late."""
    if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, (int, float)):
        raise BadRequest("ttl_ms must be a number of milliseconds.")
    age_ms = 1000 * age_of(command)
    if name != "stop" and age_ms > ttl_ms:
        raise BadRequest(f"The command came {age_ms:.0f} ms old and was good for {ttl_ms:.0f} ms; give it again.")


def text_of(message: dict, name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name} is missing.")
    return value


def is_same_origin(scope) -> bool:
    """Only our own pages may open the socket: a browser would send the session's cookie from any site."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1")
    return bool(origin) and (urlsplit(origin).netloc == host or origin in settings.CSRF_TRUSTED_ORIGINS)
