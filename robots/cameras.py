"""A station's cameras: the live pictures that people watch, and those that an episode keeps for its replay.

Stands beside the loop in station.py, in the program that runs it, simulated or real. Pictures are taken in the loop's
thread, since a renderer may belong to it; live ones are encoded in another. Nothing that a camera does ends practice:
what is wrong with it is said on the station's card, and it is tried again after a while.

    cameras = Cameras(station, link)
    cameras.hear(message)     each message of the link: the server says who watches
    cameras.show()            in each round of the loop: the live picture that is due
"""

import io
import logging
import math
import threading
import time

import numpy as np
from PIL import Image

from robots.attempts import Recording
from robots.driver import DriverError
from robots.episodes import MOST_FRAME_BYTES
from robots.link import Link
from robots.protocol import Message, Watch, Welcome
from robots.station import Station

log = logging.getLogger(__name__)

JPEG_QUALITY = 80
LARGEST_FRAME = (1280, 960)  # of a live picture
FPS_LIMIT = 30.0  # live pictures a second, of all cameras of a station together
RECORDED_SIZE = (320, 240)  # at most, of a picture that an episode keeps
AGAIN_S = 5.0  # after a picture that could not be had


def to_jpeg(picture: np.ndarray, largest: tuple[int, int], quality: int = JPEG_QUALITY) -> bytes:
    """uint8 [H, W, 3], made smaller where it is larger than what is wanted: a camera has its own size."""
    image, jpeg = Image.fromarray(picture), io.BytesIO()
    image.thumbnail(largest)
    image.save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()


class Encoder:
    """Makes JPEGs of live pictures in a thread of its own; of each camera only the newest picture waits."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[Cameras, int], tuple[np.ndarray, tuple[int, int, float]]] = {}
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="jpeg", daemon=True)
        self._thread.start()

    def put(self, cameras: "Cameras", camera: int, image: np.ndarray, stamp: tuple[int, int, float]) -> None:
        """A camera's picture [H, W, 3] and its step, episode and time; an older one that waits is dropped."""
        with self._condition:
            self._waiting[cameras, camera] = image, stamp
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                cameras, camera = next(iter(self._waiting))
                image, stamp = self._waiting.pop((cameras, camera))
            try:
                cameras.send(camera, to_jpeg(image, cameras.size), stamp)
            except Exception as error:  # the thread is all stations'
                log.exception("%s: a picture is not shown", cameras.link.name)
                cameras.failed(cameras.names[camera], f"the camera's picture can't be shown: {error}")

    def close(self) -> None:
        """End the thread, within two seconds."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(2)


class Cameras:
    """The cameras of one station. Several stations of a program may share an encoder."""

    def __init__(self, station: Station, link: Link, encoder: Encoder | None = None):
        self.station, self.link = station, link
        self._encoder = encoder or Encoder()
        body = station.embodiment
        self.names = [camera.name for camera in body.cameras]
        # What a policy sees by is in the observations, and so needs no recording.
        self.recorded = [name for name in self.names if name not in body.pictures]
        self.fps = 0.0  # of all that are watched, in turn
        self.size = (320, 240)
        self._watched: list[int] = []  # numbers in `names`
        self._turn, self._due = 0, 0.0
        self._rendered: dict[int, tuple[int, tuple[int, int]]] = {}  # scene and size of each one's newest JPEG
        self._jpegs: dict[int, bytes] = {}
        self._errors: dict[str, str] = {}
        self._again: dict[str, float] = {}
        self._recorded_bytes = 0
        self._kept: dict[str, tuple[np.ndarray, bytes]] = {}  # what was recorded last, as picture and as JPEG
        station.attempts.film = self.record

    # The live picture

    def hear(self, message: Message) -> None:
        """What the server says of who watches."""
        if isinstance(message, Watch):
            self._watch(message)
        elif isinstance(message, Welcome):
            self.fps = 0.0  # the server says anew who watches

    def _watch(self, message: Watch) -> None:
        known = [self.names.index(name) for name in dict.fromkeys(message.cameras) if name in self.names]
        self._watched = known or [0][: len(self.names)]
        self.fps = min(FPS_LIMIT, max(0.0, message.fps) * len(self._watched))
        asked = message.width, message.height
        width, height = (int(min(most, max(16, side))) for side, most in zip(asked, LARGEST_FRAME, strict=True))
        self.size = width, height

    @property
    def due(self) -> float:
        """When the next live picture is due, by time.monotonic(); infinite while nobody watches."""
        return self._due if self.fps and self.link.connected else math.inf

    def show(self) -> None:
        """The live picture that is due, if one is: of the cameras that are watched each in turn."""
        now = time.monotonic()
        if now < self.due:
            return
        self._due = max(self._due + 1 / self.fps, now)
        self._turn += 1
        camera = self._watched[self._turn % len(self._watched)]
        name, station = self.names[camera], self.station
        if now < self._again.get(name, 0.0):
            return
        stamp = station.recording.steps if station.recording else 0, station.attempts.number, time.time()
        picture = station.workspace.scene, self.size
        if self._rendered.get(camera) == picture and station.driver.renderer != "camera":
            if camera in self._jpegs:
                self.link.show_frame(*stamp, self._jpegs[camera], camera)  # nothing has moved since
            return
        self._rendered[camera] = picture
        self._jpegs.pop(camera, None)
        try:
            image = station.driver.render(name, *self.size)
        except DriverError as error:  # practice needs no camera
            self.failed(name, str(error))
            return
        self._encoder.put(self, camera, image, stamp)

    def send(self, camera: int, jpeg: bytes, stamp: tuple[int, int, float]) -> None:
        """A live picture is ready; called by the encoder."""
        self._jpegs[camera] = jpeg
        self.link.show_frame(*stamp, jpeg, camera)
        self._works(self.names[camera])

    def failed(self, name: str, reason: str) -> None:
        """Said on the station's card as long as it lasts, and once in the log; it is tried again after a while."""
        if reason != self._errors.get(name):
            log.warning("%s: %s", self.link.name, reason)
        self._errors[name] = reason
        self._rendered.pop(self.names.index(name), None)
        self._jpegs.pop(self.names.index(name), None)
        self._again[name] = time.monotonic() + AGAIN_S
        self._say()

    def _works(self, name: str) -> None:
        if self._errors.pop(name, ""):
            self._say()

    def _say(self) -> None:
        self.station.camera_error = "; ".join(dict.fromkeys(list(self._errors.values())))

    # What an episode keeps

    def record(self, recording: Recording) -> None:
        """The newest picture of each camera beside the newest observation of the episode, where the station is to keep
        any. A camera that sends none repeats its picture of before; one that sent none at the beginning keeps none.
        """
        begins = len(recording.observations) == 1
        if begins:
            self._recorded_bytes = 0
            self._kept.clear()
        for name in self.recorded if (begins and self._records()) else [*recording.frames]:
            kept = recording.frames.get(name)
            jpeg = self._new_picture(name, recording) or (kept[-1] if kept else None)
            if jpeg is not None:
                recording.frames.setdefault(name, []).append(jpeg)

    def _records(self) -> bool:
        said = self.station.settings.record_frames
        return self.station.driver.renderer == "camera" if said == "" else said == "yes"

    def _new_picture(self, name: str, recording: Recording) -> bytes | None:
        """A JPEG; None where there is nothing new, or no room for it."""
        full = self._recorded_bytes / MOST_FRAME_BYTES
        # The fuller it is, the rarer the pictures, so that a long episode has some of its end too.
        if full >= 1 or recording.steps % 2 ** int(4 * full) or time.monotonic() < self._again.get(name, 0.0):
            return None
        try:
            picture = self.station.driver.render(name, *RECORDED_SIZE)
            before, jpeg = self._kept.get(name, (None, b""))
            if before is not None and np.array_equal(picture, before):
                return jpeg  # a camera slower than the body
            jpeg = to_jpeg(picture, RECORDED_SIZE)
        except Exception as error:  # practice needs no camera
            self.failed(name, str(error))
            return None
        self._works(name)
        if self._recorded_bytes + len(jpeg) > MOST_FRAME_BYTES:
            return None
        self._kept[name] = picture, jpeg
        self._recorded_bytes += len(jpeg)
        return jpeg
