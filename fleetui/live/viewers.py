"""/ws/live: a browser's socket. It subscribes to the wall, a station, a run or frames, and sends commands to stations.

Each subscription is authorised, then gets a snapshot, then deltas, counted by `seq`. Two streams become deltas: events
of the actions, numbered by Valkey so that a lost one is seen and mended by a new snapshot, and telemetry of this
process, of which only the newest counts. Frames are latest-only too: a slow viewer gets fewer, never older ones. Every
two seconds the page hears something, so that it knows a silent line; it answers, so that the server does.

An override belongs to the socket that took it. The browser beats every 400 ms; each beat renews the lease and is passed
on to the station. When the socket closes or the beats end, the lease ends too, whatever the browser was doing. Stops,
drives and beats wait for no database.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import redis.asyncio
from django.conf import settings
from django.db import Error
from django.utils import timezone
from redis.exceptions import RedisError

from fleetui import access, messages, stops
from fleetui.fleet import selectors as fleet
from fleetui.fleet.actions import control as control_actions
from fleetui.fleet.actions import people
from fleetui.fleet.actions import stops as stop_actions
from fleetui.fleet.models import Station
from fleetui.learning import selectors as learning
from fleetui.live import frames, telemetry
from fleetui.live.hearing import get_hearing
from fleetui.live.sockets import BadRequest, Socket, in_thread, read_json
from fleetui.live.stations import tell_at_once
from robots.protocol import Beat, Command, Lapse

log = logging.getLogger(__name__)

LARGEST_TEXT = 64 * 1024
SUBSCRIPTIONS_LIMIT = 200
# A card on the wall moves at most 5 times a second; the page of one station shows every message.
EVERY_S = {"wall": 0.19, "station": 0.08}
FORBIDDEN, SILENT = 4403, 4408
NOTE_SEEN_S = 60.0
RECHECK_S = 1.5  # so long may a socket outlive its log-in, its user's membership or role; 2 s with the asking
BEAT_LOST_S = 2.0  # from the newest beat to the end of the lease; the row in PostgreSQL says the same
WATCH_BEATS_S = 0.1
HEARTBEAT_EVERY_S = 2.0
# A page that answers no heartbeat for so long gets no pictures, and after the other time no socket: a page on a slow
# line answers late, for its heartbeats wait behind pictures.
QUIET_AFTER_S, SILENT_AFTER_S = 5.0, 30.0
COMPARE_NUMBERS_S = 4.0  # how often lost events are looked for
VALKEY_WITHIN_S = 1.0
STOPS_AT_ONCE = 20


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
    sent: dict[str, dict] = field(default_factory=dict)  # slug -> card fields as the viewer has them
    sent_at: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Held:
    """A station that this socket took control of."""

    station: Station
    epoch: int
    beat_at: float
    renewing: bool = False


class LiveConsumer(Socket):
    def __str__(self):
        return f"A page of {self.user}"

    async def enter(self):
        self.user = self.scope["user"]
        self.session = self.scope["session"].session_key or ""
        self.subscriptions: dict[str, Subscription] = {}
        self.watches: dict[tuple[str, str], frames.Watch] = {}
        self.held: dict[tuple[str, str], Held] = {}
        self.pending: dict[tuple[str, str], tuple[dict, bool]] = {}
        self.numbers, self.noted_seen = None, -NOTE_SEEN_S
        self.telemetry_there, self.frames_there = asyncio.Event(), asyncio.Event()
        self.counted, self.stops_under_way = False, 0
        if not self.user.is_authenticated or not is_same_origin(self.scope):
            await self.hang_up(FORBIDDEN)
            return
        # As the page was drawn, and as they are by the newest look (is_welcome).
        self.roles = self.known_roles = await in_thread(access.get_roles)(self.user)
        access.remember_person(self.session, self.user, self.roles)
        access.count_page(self.session, 1)
        self.counted = True
        await self.accept()
        self.numbers = redis.asyncio.Redis.from_url(settings.CHANNELS_ADDRESS, socket_timeout=VALKEY_WITHIN_S)
        for part in (
            self.send_telemetry,
            self.send_frames,
            self.close_when_unwelcome,
            self.watch_beats,
            self.send_heartbeats,
            self.compare_numbers,
        ):
            self.spawn(part())

    async def leave(self):
        if self.counted:
            access.count_page(self.session, -1)
        lapses = [await self.let_go(held) for held in list(self.held.values())]
        for watch in self.watches.values():
            frames.remove_watch(watch)
        for topic in list(self.subscriptions):
            await self.drop(topic)
        if self.numbers is not None:
            await self.numbers.aclose()
        await asyncio.gather(*lapses)

    async def take(self, text, data):
        message = read_json(text, LARGEST_TEXT)
        if "alive" in message:
            if message.get("ask") is True:  # the page was away, or its network changed
                self.say_soon(self.alive())
            return
        if "stop" in message:
            try:
                self.stop(message)
            except access.Refused as error:
                wanted = {"id": message["stop"].get("id"), "error": str(error), "status": error.status}
                self.say_soon({"stop_done": wanted})
        elif "beat" in message:
            self.beat(message["beat"])
        elif "subscribe" in message:
            self.do(partial(self.subscribe, message), message)
        elif "unsubscribe" in message:
            self.do(partial(self.unsubscribe, message), message)
        elif "command" in message:
            self.command(message["command"])
        else:
            raise BadRequest("Send subscribe, unsubscribe, stop, command or beat.")

    async def send_heartbeats(self):
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY_S)
            await self.say(self.alive())

    def alive(self):
        return {"heartbeat": {"server_time": time.time(), "clock": time.monotonic()}}

    async def close_when_unwelcome(self):
        """The socket was opened by a session, and must not outlive it; nor show a lab to who has left it."""
        while True:
            await asyncio.sleep(RECHECK_S)
            with contextlib.suppress(Error):  # asked again soon
                if not await in_thread(self.is_welcome)():
                    await self.hang_up(FORBIDDEN)

    def is_welcome(self) -> bool:
        if not access.read_session(self.session).is_authenticated:
            access.forget_person(self.session)
            return False
        labs = {each.lab for each in self.subscriptions.values()} | {lab for lab, _ in self.watches}
        now = access.get_roles(self.user)
        access.remember_person(self.session, self.user, now)
        self.known_roles = now
        if labs and time.monotonic() - self.noted_seen > NOTE_SEEN_S:
            self.noted_seen = time.monotonic()
            people.note_seen(user=self.user, labs=list(labs))
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
        await get_hearing().join(messages.group_of(wanted.topic), self.take_event)
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
        await get_hearing().leave(messages.group_of(topic), self.take_event)

    async def send_snapshot(self, subscription):
        subscription.live = False
        # Whatever was numbered up to here was committed before, so the snapshot holds it.
        [subscription.number] = await self.read_numbers([subscription])
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
            # Pages count ages by these clocks, not by the browser's.
            message |= {"server_time": time.time(), "clock": time.monotonic()}
        await self.say(message)

    # Events of the actions, through the channel layer

    async def read_numbers(self, subscriptions) -> list[int | None]:
        """The newest number of each one's topic; None for all where Valkey does not say."""
        try:
            async with asyncio.timeout(VALKEY_WITHIN_S):
                numbers = await self.numbers.mget([messages.number_key(each.topic) for each in subscriptions])
        except (RedisError, TimeoutError, OSError):
            return [None] * len(subscriptions)
        return [int(number or 0) for number in numbers]

    async def compare_numbers(self):
        """Where an event was lost and no later one shows the gap (Valkey was away, or was emptied), the page gets all
        of it anew.
        """
        before: dict[str, int] = {}  # numbers at the last look: long enough ago for their events to have come
        answered = True
        while True:
            await asyncio.sleep(COMPARE_NUMBERS_S)
            live = [each for each in self.subscriptions.values() if each.live]
            numbers = await self.read_numbers(live) if live else []
            if None in numbers:
                answered = False
                continue
            for each, number in zip(live, numbers, strict=True):
                then = before.get(each.topic, 0)
                if not answered or each.number is None or each.number < then or number < then:
                    self.do(partial(self.renew_snapshot, each.topic))
            before = {each.topic: number for each, number in zip(live, numbers, strict=True)}
            answered = True

    async def renew_snapshot(self, topic):
        if topic in self.subscriptions:
            await self.send_snapshot(self.subscriptions[topic])

    def take_event(self, event):
        if event["topic"] in self.subscriptions and not self.over:
            with contextlib.suppress(BadRequest):  # too much waits: it is lost, and compare_numbers sees that
                self.do(partial(self.live_event, event))

    async def live_event(self, event):
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
            if self.silent_s() > QUIET_AFTER_S:
                loop.call_later(1.0, self.frames_there.set)
                continue
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
                await self.send_out(bytes_data=len(slug).to_bytes(2, "big") + slug + frame)
            if soonest is not None:
                loop.call_at(soonest, self.frames_there.set)

    # Commands

    def stop(self, message):
        """One station, or all of a lab: who may give it is known here, so nothing is waited for before it is told."""
        lab, wanted = text_of(message, "lab"), message["stop"]
        if not isinstance(wanted, dict):
            raise BadRequest("stop must be an object: {id, station}; without a station it is all of the lab.")
        station = text_of(wanted, "station") if wanted.get("station") is not None else None
        access.check_role(self.known_roles.get(lab), lab, "command")
        if self.stops_under_way >= STOPS_AT_ONCE:
            raise BadRequest("So many stops at once are not needed: those before are under way.")
        self.stops_under_way += 1
        self.spawn(self.give_stop(str(wanted.get("id") or uuid4())[:80], lab, station))

    async def give_stop(self, order_id, lab, station):
        try:
            wish = {"user": self.user, "lab_slug": lab, "station_slug": station, "order_id": order_id, "source": "page"}
            answer = await asyncio.wrap_future(
                stops.in_daemon(partial(stop_actions.stop_stations, **wish, roles=self.known_roles))
            )
        except access.Refused as error:
            await self.say({"stop_done": {"id": order_id, "error": str(error), "status": error.status}})
            return
        finally:
            self.stops_under_way -= 1
        for key in [key for key in self.held if key[0] == lab and station in (None, key[1])]:
            await self.forget_control(key, "")  # it ended an override, if there was one
        await self.say({"stop_done": answer})

    def command(self, command):
        if not isinstance(command, dict):
            raise BadRequest("command must be an object: {id, lab, station, name, args, ttl_ms, sent_at}.")
        command_id = str(command.get("id") or uuid4())[:80]
        name, ttl_ms = command.get("name"), command.get("ttl_ms", 5000)
        try:
            lab, slug = text_of(command, "lab"), text_of(command, "station")
            if name == "stop":
                raise BadRequest("A stop is said as {stop: {id, station}, lab}.")
            refuse_late(command, ttl_ms)
            if name == "drive":
                self.drive(command, command_id, ttl_ms)
            else:
                self.do(partial(self.give_command, command_id, lab, slug, name, command.get("args"), ttl_ms))
        except (access.Refused, BadRequest) as error:
            self.answer(command_id, {"ok": False, "error": str(error)})

    async def give_command(self, command_id, lab, slug, name, args, ttl_ms):
        station = None
        try:
            station = await in_thread(access.get_station)(self.user, lab, slug)
            granted = {"epoch": 0}
            telemetry.await_answer(
                station.pk, command_id, lambda answer: self.answer_soon(station, name, command_id, granted, answer)
            )
            granted |= await in_thread(control_actions.command_station)(
                user=self.user,
                lab_slug=lab,
                station_slug=slug,
                name=name,
                args=args,
                ttl_ms=ttl_ms,
                command_id=command_id,
                source="page",
            )
        except (access.Refused, Error, ValueError) as error:
            if station is not None:
                telemetry.stop_waiting(station.pk, command_id)
            refused = isinstance(error, access.Refused)
            sentence = (
                str(error) if refused else "The server's database did not take it; look at the station, try again."
            )
            self.answer(command_id, {"ok": False, "error": sentence})
            if not refused:
                raise
            return
        if granted.get("refused"):  # by the station, sooner than this was known
            await self.take_refusal(station, granted)
        elif name == "override":
            held = Held(station, granted["epoch"], time.monotonic())
            self.held[lab, slug] = held
            await self.tell_control(held, True)
        elif name in ("hand_back", "pause"):  # each of them ended an override, if there was one
            await self.forget_control((lab, slug), "")
        asyncio.get_running_loop().call_later(ttl_ms / 1000 + 1, self.give_up, station, command_id, name)

    def drive(self, command, command_id, ttl_ms):
        """Ten times a second, so without the database: the beats renew and authorise, and the station refuses what
        comes from an older epoch.
        """
        held = self.held.get((command["lab"], command["station"]))
        if held is None or time.monotonic() - held.beat_at > BEAT_LOST_S:
            raise access.Conflict("This page is not in control of the station: take control (override) first.")
        message = Command(
            id=command_id,
            name="drive",
            args=control_actions.checked_args("drive", command.get("args") or {}),
            ttl_ms=min(ttl_ms, control_actions.DRIVE_TTL_MS),
            sent_at=time.monotonic() - age_of(command),
            epoch=held.epoch,
            by=self.user.get_username(),
        )
        if not tell_at_once(held.station.pk, message):
            raise access.Conflict(f"{held.station} is offline, so it can't be driven.")

    # Control: the beats of this browser

    def beat(self, beat):
        if not isinstance(beat, dict):
            raise BadRequest("beat must be an object: {lab, station, sent_at}.")
        held = self.held.get((text_of(beat, "lab"), text_of(beat, "station")))
        if held is None:
            raise BadRequest("This page is not in control of the station: take control (override) first.")
        if age_of(beat) > BEAT_LOST_S:
            return
        held.beat_at = time.monotonic()
        tell_at_once(held.station.pk, Beat(epoch=held.epoch, sent_at=time.monotonic() - age_of(beat)))
        self.say_soon({"beat": {"station": held.station.slug, "clock": time.monotonic()}})
        if not held.renewing:
            held.renewing = True
            self.spawn(self.renew(held, timezone.now()))

    async def renew(self, held, heard_at):
        """A beat counts only while its user is logged in and may command; the row decides who is in control."""
        try:
            if not await in_thread(self.is_welcome)():
                await self.let_go(held)
                await self.hang_up(FORBIDDEN)
                return
            await in_thread(control_actions.renew_control)(
                user=self.user,
                lab_slug=held.station.lab.slug,
                station_slug=held.station.slug,
                epoch=held.epoch,
                heard_at=heard_at,
            )
        except access.Refused as error:
            await self.let_go(held, str(error))
        except Error:
            log.exception("A beat could not be written")  # two seconds of that, and the lease has ended
        finally:
            held.renewing = False

    async def watch_beats(self):
        while True:
            await asyncio.sleep(WATCH_BEATS_S)
            if self.silent_s() > SILENT_AFTER_S:
                self.hang_up_soon(SILENT, "The page did not answer.")
            for held in list(self.held.values()):
                if time.monotonic() - held.beat_at > BEAT_LOST_S:
                    await self.let_go(held, "No sign of life came from this page for two seconds.")

    async def let_go(self, held, why=""):
        """The lease ends and the station holds still, until a person takes over or hands back."""
        await self.forget_control((held.station.lab.slug, held.station.slug), why, held)
        tell_at_once(held.station.pk, Lapse(epoch=held.epoch))
        # Told first, recorded after; without a database it expires by itself.
        return asyncio.ensure_future(record_lapse(held.station, held.epoch))

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
        self.answer(command_id, answer)
        if name == "override" and not answer["ok"]:
            self.spawn(self.take_refusal(station, granted))

    async def take_refusal(self, station, granted):
        """The station did not let itself be taken over: nobody holds it, and the policy goes on."""
        granted["refused"] = True
        await self.forget_control((station.lab.slug, station.slug), "")
        if granted["epoch"]:
            await in_thread(control_actions.undo_override)(station=station, epoch=granted["epoch"])

    def answer(self, command_id, answer):
        self.say_soon({"command_done": {"id": command_id} | answer})


async def record_lapse(station, epoch):
    with contextlib.suppress(Error):
        await in_thread(control_actions.lapse_control)(station=station, epoch=epoch, source="page")


def age_of(message: dict) -> float:
    """Seconds since the browser sent it, by this process' steady clock as the browser knows it from the heartbeats: a
    wall clock may jump.
    """
    sent_at = message.get("sent_at")
    if sent_at is None:
        return 0.0
    if isinstance(sent_at, bool) or not isinstance(sent_at, (int, float)) or not -1e12 < sent_at < 1e12:
        raise BadRequest("sent_at must be the server's steady clock in seconds.")
    return max(0.0, time.monotonic() - sent_at)


def refuse_late(command: dict, ttl_ms) -> None:
    """A click that waited on the way here must not act late either; only a stop is never too late."""
    if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, (int, float)) or not 0 <= ttl_ms <= 60_000:
        raise BadRequest("ttl_ms must be a number of milliseconds, 0 to 60000.")
    age_ms = 1000 * age_of(command)
    if age_ms > ttl_ms:
        raise BadRequest(f"The command came {age_ms:.0f} ms old and was good for {ttl_ms:.0f} ms; give it again.")


def text_of(message: dict, name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name} is missing.")
    return value


def is_same_origin(scope) -> bool:
    """Only our own pages may open the socket: a browser would send the session's cookie from any site.

    Channels' AllowedHostsOriginValidator takes every port of an allowed host, and a browser sends our cookie to
    whatever else listens on this machine; its OriginValidator wants to know each origin beforehand, and so would refuse
    a forwarded port.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1")
    return origin in (f"http://{host}", f"https://{host}", *settings.CSRF_TRUSTED_ORIGINS)
