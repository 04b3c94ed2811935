"""What a person orders through a browser's socket: stops, commands, and the control of a station.

An override belongs to the socket that took it. The browser sends a heartbeat every 400 ms; each renews the lease and
is passed on to the station. When the socket closes or they end, the lease ends too, whatever the browser was doing.
Stops, drives and heartbeats wait for no database.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4

from django.db import Error
from django.utils import timezone

from fleetui import access, stops
from fleetui.fleet.actions import control as control_actions
from fleetui.fleet.actions import stops as stop_actions
from fleetui.fleet.models import Station
from fleetui.live import telemetry
from fleetui.live.browser_messages import age_of, refuse_late, text_of
from fleetui.live.sockets import BadRequest, PersonSocket, in_thread
from fleetui.live.stations import tell_at_once
from robots.protocol import Command, ControlHeartbeat, Lapse

log = logging.getLogger(__name__)

FORBIDDEN = 4403
HEARTBEAT_LOST_S = 2.0  # from the newest heartbeat to the end of the lease; the row in PostgreSQL says the same
WATCH_HEARTBEATS_S = 0.1
STOPS_AT_ONCE = 20


@dataclass(eq=False)
class Held:
    """A station that this socket took control of."""

    station: Station
    epoch: int
    heartbeat_at: float
    renewing: bool = False


class Commanding:
    """The orders of one socket, and the stations that it holds. What it holds it lets go when the socket ends."""

    def __init__(self, socket: PersonSocket) -> None:
        self.socket = socket  # it knows the user and the roles
        self.held: dict[tuple[str, str], Held] = {}
        self.stops_under_way = 0

    def begin(self) -> None:
        self.socket.spawn(self.watch_heartbeats())

    async def let_all_go(self) -> list[asyncio.Future[None]]:
        """The socket ends. Told at once; what is returned writes it down."""
        return [await self.let_go(held) for held in list(self.held.values())]

    # Commands

    def stop(self, message: dict[str, Any]) -> None:
        """One station, or all of a lab: who may give it is known here, so nothing is waited for before it is told."""
        lab, wanted = text_of(message, "lab"), message["stop"]
        if not isinstance(wanted, dict):
            raise BadRequest("stop must be an object: {id, station}; without a station it is all of the lab.")
        station = text_of(wanted, "station") if wanted.get("station") is not None else None
        access.check_role(self.socket.known_roles.get(lab), lab, "command")
        if self.stops_under_way >= STOPS_AT_ONCE:
            raise BadRequest("So many stops at once are not needed: those before are under way.")
        self.stops_under_way += 1
        self.socket.spawn(self.give_stop(str(wanted.get("id") or uuid4())[:80], lab, station))

    async def give_stop(self, order_id: str, lab: str, station: str | None) -> None:
        try:
            wish: dict[str, Any] = {
                "user": self.socket.user,
                "lab_slug": lab,
                "station_slug": station,
                "order_id": order_id,
                "source": "page",
            }
            answer = await asyncio.wrap_future(
                stops.in_daemon(partial(stop_actions.stop_stations, **wish, roles=self.socket.known_roles))
            )
        except access.Refused as error:
            await self.socket.say({"stop_done": {"id": order_id, "error": str(error), "status": error.status}})
            return
        finally:
            self.stops_under_way -= 1
        for key in [key for key in self.held if key[0] == lab and station in (None, key[1])]:
            await self.forget_control(key, "")  # it ended an override, if there was one
        await self.socket.say({"stop_done": answer})

    def command(self, command: Any) -> None:
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
                self.socket.do(partial(self.give_command, command_id, lab, slug, name, command.get("args"), ttl_ms))
        except (access.Refused, BadRequest) as error:
            self.answer(command_id, {"ok": False, "error": str(error)})

    async def give_command(self, command_id: str, lab: str, slug: str, name: Any, args: Any, ttl_ms: Any) -> None:
        station = None
        try:
            station = await in_thread(access.get_row)(Station, self.socket.user, lab, slug=slug)
            granted: dict[str, Any] = {"epoch": 0}
            telemetry.await_answer(
                station.pk, command_id, lambda answer: self.answer_soon(station, name, command_id, granted, answer)
            )
            granted |= await in_thread(control_actions.command_station)(
                user=self.socket.user,
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

    def drive(self, command: dict[str, Any], command_id: str, ttl_ms: Any) -> None:
        """Ten times a second, so without the database: the heartbeats renew and authorise, and the station refuses what
        comes from an older epoch.
        """
        held = self.held.get((command["lab"], command["station"]))
        if held is None or time.monotonic() - held.heartbeat_at > HEARTBEAT_LOST_S:
            raise access.Conflict("This page is not in control of the station: take control (override) first.")
        message = Command(
            id=command_id,
            name="drive",
            args=control_actions.checked_args("drive", command.get("args") or {}),
            ttl_ms=min(ttl_ms, control_actions.DRIVE_TTL_MS),
            sent_at=time.monotonic() - age_of(command),
            epoch=held.epoch,
            by=self.socket.user.get_username(),
        )
        if not tell_at_once(held.station.pk, message):
            raise access.Conflict(f"{held.station} is offline, so it can't be driven.")

    # Control: the heartbeats of this browser

    def hear_heartbeat(self, heartbeat: Any) -> None:
        if not isinstance(heartbeat, dict):
            raise BadRequest("control_heartbeat must be an object: {lab, station, sent_at}.")
        held = self.held.get((text_of(heartbeat, "lab"), text_of(heartbeat, "station")))
        if held is None:
            raise BadRequest("This page is not in control of the station: take control (override) first.")
        if age_of(heartbeat) > HEARTBEAT_LOST_S:
            return
        held.heartbeat_at = time.monotonic()
        tell_at_once(held.station.pk, ControlHeartbeat(epoch=held.epoch, sent_at=time.monotonic() - age_of(heartbeat)))
        self.socket.say_soon({"control_heartbeat": {"station": held.station.slug, "clock": time.monotonic()}})
        if not held.renewing:
            held.renewing = True
            self.socket.spawn(self.renew(held, timezone.now()))

    async def renew(self, held: Held, heard_at: datetime) -> None:
        """A heartbeat counts only while its user is logged in and may command; the row decides who is in control."""
        try:
            if not await in_thread(self.socket.is_welcome)():
                await self.let_go(held)
                await self.socket.hang_up(FORBIDDEN)
                return
            await in_thread(control_actions.renew_control)(
                user=self.socket.user,
                lab_slug=held.station.lab.slug,
                station_slug=held.station.slug,
                epoch=held.epoch,
                heard_at=heard_at,
            )
        except access.Refused as error:
            await self.let_go(held, str(error))
        except Error:
            log.exception("A heartbeat could not be written")  # two seconds of that, and the lease has ended
        finally:
            held.renewing = False

    async def watch_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(WATCH_HEARTBEATS_S)
            for held in list(self.held.values()):
                if time.monotonic() - held.heartbeat_at > HEARTBEAT_LOST_S:
                    await self.let_go(held, "No sign of life came from this page for two seconds.")

    async def let_go(self, held: Held, why: str = "") -> asyncio.Future[None]:
        """The lease ends and the station holds still, until a person takes over or hands back."""
        await self.forget_control((held.station.lab.slug, held.station.slug), why, held)
        tell_at_once(held.station.pk, Lapse(epoch=held.epoch))
        # Told first, recorded after; without a database it expires by itself.
        return asyncio.ensure_future(record_lapse(held.station, held.epoch))

    async def forget_control(self, key: tuple[str, str], why: str, held: Held | None = None) -> None:
        if key in self.held and held in (None, self.held[key]):
            await self.tell_control(self.held.pop(key), False, why)

    async def tell_control(self, held: Held, holds: bool, why: str = "") -> None:
        control = {"lab": held.station.lab.slug, "station": held.station.slug, "held": holds, "epoch": held.epoch}
        await self.socket.say({"control": control | {"why": why}})

    def give_up(self, station: Station, command_id: str, name: str) -> None:
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

    def answer_soon(
        self, station: Station, name: str, command_id: str, granted: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        self.answer(command_id, answer)
        if name == "override" and not answer["ok"]:
            self.socket.spawn(self.take_refusal(station, granted))

    async def take_refusal(self, station: Station, granted: dict[str, Any]) -> None:
        """The station did not let itself be taken over: nobody holds it, and the policy goes on."""
        granted["refused"] = True
        await self.forget_control((station.lab.slug, station.slug), "")
        if granted["epoch"]:
            await in_thread(control_actions.undo_override)(station=station, epoch=granted["epoch"])

    def answer(self, command_id: str, answer: dict[str, Any]) -> None:
        self.socket.say_soon({"command_done": {"id": command_id} | answer})


async def record_lapse(station: Station, epoch: int) -> None:
    with contextlib.suppress(Error):
        await in_thread(control_actions.lapse_control)(station=station, epoch=epoch, source="page")
