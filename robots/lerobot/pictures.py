"""Single pictures as files: JPEG and PNG, and nothing else that Pillow might read."""

import io

import numpy as np
from PIL import Image

from robots.embodiments import MOST_PIXELS


class PictureError(ValueError):
    """Bytes that are no picture, or not the one that was expected."""


def to_file(picture: np.ndarray, quality: int | None) -> bytes:
    """Of uint8 [H, W, 3]: a JPEG of this quality, or a PNG, which loses nothing."""
    file = io.BytesIO()
    if quality is None:
        Image.fromarray(picture).save(file, "PNG")
    else:
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


def from_file(file: object, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, 3]; PictureError where it can't be read, or isn't of this size (width, height)."""
    if not isinstance(file, bytes):
        raise PictureError("it is no file's bytes")
    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "JPEG")) as image:  # which reads its size alone
            if image.width * image.height > MOST_PIXELS:
                raise PictureError("it is too large")
            if size is not None and image.size != size:
                raise PictureError(f"it is {image.width}x{image.height}, not {size[0]}x{size[1]}")
            return np.asarray(image.convert("RGB"))
    except PictureError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError(str(error)[:80]) from None


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Of another size (width, height)."""
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
