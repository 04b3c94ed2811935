"""Pictures to MP4 files and back, one picture in memory at a time. H.264 is written; what FFmpeg knows is read."""

import contextlib
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from robots.embodiments import MOST_PIXELS

# A lossless one keeps red, green and blue as they are, and so every bit: LeRobot reads it, browsers don't show it.
# How far off each is, and how large: docs/datasets.md.
QUALITIES: dict[str, tuple[str, str, dict[str, str]]] = {
    "high": ("libx264", "yuv420p", {"crf": "18"}),
    "small": ("libx264", "yuv420p", {"crf": "30"}),
    "lossless": ("libx264rgb", "rgb24", {"qp": "0"}),
}
PIXELS = {"yuv420p": "yuv420p", "rgb24": "gbrp"}  # as they are stored
GROUP = 5  # pictures from one that stands by itself to the next: few, so that any is found quickly
MOST_PICTURES, LARGEST_TABLE, MOST_BOXES = 10**6, 2**26, 10**5  # of a file that is read: pictures, bytes, parts
TOLERANCE_S = 1e-4  # by which LeRobot's loader lets a picture be off its time

_FAULTS = (av.FFmpegError, OSError, ValueError, IndexError, OverflowError, MemoryError)


class VideoError(ValueError):
    """A video that can't be read; the text says why, and is told in which file by whoever reads."""


def rate(fps: float) -> Fraction:
    """Pictures a second as the exact fraction that was meant: 29.97 is 2997/100, and 30.30303 is 1000/33."""
    return Fraction(fps).limit_denominator(10_000)


def even(size: int) -> int:
    """A video's width or height: colours at half the resolution need an even one."""
    return size + size % 2


class VideoWriter:
    """One MP4 file of a constant rate. Odd pictures get their last row or column once more."""

    def __init__(self, path: Path, width: int, height: int, fps: float, quality: str):
        codec, pixels, options = QUALITIES[quality]
        self.width, self.height = even(width), even(height)
        self.frames = 0
        self.size = 0  # bytes until now, but for those that the encoder still holds
        # The table of contents comes first, so that a browser can begin before it has the whole file.
        self._file = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        more = {"preset": "veryfast", "bf": "0", "g": str(GROUP)}
        stream = self._file.add_stream(codec, rate=rate(fps), options=options | more)
        if not isinstance(stream, VideoStream):
            raise TypeError(codec)
        self._stream = stream
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, pixels
        stream.codec_context.thread_count = 2  # more need more memory, for pictures under way

    def write(self, picture: np.ndarray, first: bool) -> None:
        """uint8 [H, W, 3]. `first`: an episode begins, and must be found without what was before."""
        below, right = self.height - picture.shape[0], self.width - picture.shape[1]
        if below or right:
            picture = np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self.frames
        if first:
            frame.pict_type = PictureType.I
        self._add(self._stream.encode(frame))
        self.frames += 1

    def _add(self, packets: "list[av.Packet[VideoStream]]") -> None:
        self.size += sum(packet.size for packet in packets)
        self._file.mux(packets)

    def close(self) -> None:
        """Finish the file."""
        self._add(self._stream.encode())
        self._file.close()

    def abandon(self) -> None:
        """Let go of a file that nobody will read."""
        with contextlib.suppress(*_FAULTS):
            self._file.close()


@dataclass(frozen=True)
class VideoFacts:
    """What a file says of itself, and when each of its pictures is shown."""

    width: int
    height: int
    codec: str
    times: np.ndarray  # float64 [N] seconds, in order


def look_at(path: Path) -> VideoFacts:
    """Read its table of contents and no picture; VideoError where it is no video."""
    with _opened(path) as (container, stream):
        times = [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None]
        context = stream.codec_context
        return VideoFacts(context.width, context.height, context.name, np.sort(np.array(times)))


def pictures(
    path: Path, *, start_s: float, count: int, fps: float, size: tuple[int, int], shrunk: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] of each of `count` pictures from `start_s` on, of this size (width, height); made smaller where
    `shrunk` says a size. VideoError where there are not so many, at these times.
    """
    found = 0
    with _opened(path) as (container, stream):
        context = stream.codec_context
        if (context.width, context.height) != size:
            raise VideoError(f"its pictures are {context.width}x{context.height}, not {size[0]}x{size[1]}")
        base = stream.time_base
        if base is None:
            raise VideoError("it has no times")
        if start_s > 0:
            container.seek(int(start_s / base), stream=stream)
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            off = float(frame.pts * base) - start_s - found / fps
            if off < -0.5 / fps:
                continue  # before it
            if off > 0.5 / fps:
                break
            if frame.is_corrupt or (frame.width, frame.height) != size:
                raise VideoError(f"picture {found} from {start_s:g} s on is broken")
            if shrunk is None:
                yield frame.to_ndarray(format="rgb24")
            else:
                width, height = shrunk
                small = frame.reformat(width, height, format="rgb24", interpolation=Interpolation.AREA)
                yield small.to_ndarray()
            found += 1
            if found == count:
                return
    raise VideoError(f"it has {found} pictures from {start_s:g} s on, and {count} are needed, {fps:g} each second")


def _refuse_absurd(path: Path) -> None:
    """A file of a few bytes may claim a billion pictures, and FFmpeg would make room for each: so its tables of
    contents are looked into first. An MP4 is a row of boxes, each with its size and its name before it.
    """
    with path.open("rb") as file:
        for _ in range(MOST_BOXES):
            head = file.read(8)
            if len(head) < 8:
                return
            size, kind = struct.unpack(">I4s", head)
            before = 8
            if size == 1:
                wide = file.read(8)
                size, before = int.from_bytes(wide, "big"), 16
            if 0 < size < before:
                return  # it is no box, which FFmpeg says
            if kind in (b"moov", b"moof"):
                table = file.read(LARGEST_TABLE + 1 if size == 0 else min(size - before, LARGEST_TABLE + 1))
                if len(table) > LARGEST_TABLE:
                    raise VideoError("its table of contents is too large")
                # The pictures are counted at these places after the names of what counts them.
                for name, at in ((b"stsz", 12), (b"stz2", 12), (b"trun", 8)):
                    for found in re.finditer(name, table):
                        count = int.from_bytes(table[found.start() + at : found.start() + at + 4], "big")
                        if count > MOST_PICTURES:
                            raise VideoError(f"it claims to hold {count} pictures")
            elif size:
                file.seek(size - before, os.SEEK_CUR)
            if size == 0:
                return  # it goes on to the end of the file
    raise VideoError("it has too many parts")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """As MP4 and nothing else: other formats may name further files, or addresses, which FFmpeg would open. Whatever
    FFmpeg finds wrong becomes a VideoError.
    """
    try:
        _refuse_absurd(path)
        with av.open(str(path), format="mp4") as container:
            if not container.streams.video:
                raise VideoError("it holds no pictures")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError("nobody knows its codec")
            if not 0 < stream.codec_context.width * stream.codec_context.height <= MOST_PIXELS:
                raise VideoError("its pictures are too large")
            stream.codec_context.thread_count = 2
            yield container, stream
    except VideoError:
        raise
    except _FAULTS as error:
        raise VideoError(f"FFmpeg can't read it ({str(error)[:80]})") from None
