"""What comes from elsewhere, put into a folder of ours with suspicion: an archive's files, or a folder's. Plain files
alone, under plain names, of bounded number and size; whatever else there is is refused, with a sentence.
"""

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from fleetui.access import Refused

MOST_FILES = 200_000
MOST_RATIO = 200  # an archive's content to its own size: what says more is a bomb
LEAST_CONTENT = 100 * 2**20  # bytes below which no ratio counts
LEFT_FREE = 2**30  # bytes of the disk, which the fleet itself needs
LONGEST_PATH = 400  # characters
PIECE = 2**20

Progress = Callable[[float], None]
FoundFile = tuple[Path, PurePosixPath, int]  # where it lies, its place below the folder, bytes


def refuse_full(folder: Path, size: int) -> None:
    """Where the disk has no room for so many bytes more."""
    free = shutil.disk_usage(folder).free
    if size > free - LEFT_FREE:
        room = max(0, free - LEFT_FREE)
        raise Refused(
            f"It needs {size / 2**30:.1f} GiB, and the server's disk has room for {room / 2**30:.1f}. Make room on it, "
            "then try again."
        )


def unpack(archive: Path, target: Path, tell: Progress) -> None:
    """A .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz into a new folder."""
    target.mkdir(parents=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            try:
                _unpack(_of_zip(opened), archive, target, tell)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
                raise _broken(error) from None
        return
    try:
        with tarfile.open(archive, "r:*") as opened_tar:
            _unpack(_of_tar(opened_tar), archive, target, tell)
    except (tarfile.TarError, EOFError, OSError, ValueError, UnicodeError) as error:
        raise _broken(error) from None


def _broken(error: BaseException) -> Refused:
    if isinstance(error, OSError) and error.errno is not None:
        raise error  # the disk's, not the archive's
    told = " ".join(str(error).split())[:120]
    return Refused(f"It is no .zip or .tar archive that can be read ({told}). Make it anew, and send it again.")


Member = tuple[str, int, Callable[[], "IO[bytes] | None"]]  # name, bytes as it says, how it is read


def _of_zip(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if info.is_dir():
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise _refused(info.filename, "is a link or a device")
        if info.flag_bits & 1:
            raise _refused(info.filename, "is encrypted")
        yield info.filename, info.file_size, lambda info=info: archive.open(info)  # type: ignore[misc]


def _of_tar(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        if info.isdir():
            continue
        if not info.isreg():
            raise _refused(info.name, "is a link or a device")
        yield info.name, info.size, lambda info=info: archive.extractfile(info)  # type: ignore[misc]


def _refused(name: str, what: str) -> Refused:
    shown = ascii(name)[1:-1][:80]
    return Refused(f"The archive is refused: its entry {shown} {what}. Pack the folder with plain files alone.")


def _unpack(members: Iterator[Member], archive: Path, target: Path, tell: Progress) -> None:
    size = archive.stat().st_size
    most = max(LEAST_CONTENT, MOST_RATIO * size)
    written = 0
    for number, (name, told, opened) in enumerate(members):
        if number == MOST_FILES:
            raise Refused(f"The archive has more than {MOST_FILES} entries; send less.")
        if not name.isprintable() or len(name) > LONGEST_PATH or "\\" in name or ":" in name:
            raise _refused(name, "has a name that can't be kept")
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or not parts:
            raise _refused(name, "leads out of its folder")
        if written + told > most:
            raise Refused(f"The archive claims to hold more than {MOST_RATIO} times its size; it is refused.")
        refuse_full(target, told)
        path = target.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        source = opened()
        if source is None:
            raise _refused(name, "has no content")
        with source, open(path, "xb") as file:  # a second entry of one name is refused too
            while piece := source.read(PIECE):
                written += len(piece)
                if written > most:
                    raise Refused(f"The archive holds more than {MOST_RATIO} times its size; it is refused.")
                file.write(piece)
        tell(min(1.0, written / max(size, 1)))


def allowed_folder(place: str, roots: list[Path]) -> Path:
    """The folder that was named, where it lies below one of those that the administrator allows, links followed."""
    if not roots:
        raise Refused(
            "No folder of the server may be imported from. Whoever runs it names some in FLEETUI_IMPORT_ROOTS; or "
            "upload an archive."
        )
    listed = ", ".join(str(root) for root in roots)
    try:
        path = Path(place.strip()).expanduser()
        if not path.is_absolute() or "\0" in place:
            raise Refused(f"Name the whole path of the folder. It must lie below {listed}.")
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        # The same words as for what lies elsewhere, so that nobody learns what else there is.
        raise Refused(f"There is no such folder below {listed}.") from None
    if not any(real.is_relative_to(root.resolve()) for root in roots) or not real.is_dir():
        raise Refused(f"There is no such folder below {listed}.")
    return real


def files_below(source: Path, roots: list[Path]) -> list[FoundFile]:
    """What copy_files() takes of a folder. Refused where it is no plain folder: links are followed where they stay
    below the allowed folders.
    """
    real_roots = [root.resolve() for root in roots]
    files: list[FoundFile] = []
    for folder, folders, names in os.walk(source, followlinks=False):
        for name in folders:
            if (Path(folder) / name).is_symlink():
                raise Refused(f"The folder holds the link {name}, to another folder; copy it with cp -rL first.")
        for name in names:
            path = Path(folder) / name
            real = path.resolve()
            if not any(real.is_relative_to(root) for root in real_roots):
                raise Refused(f"The file {name} is a link that leads out of the allowed folders; copy it first.")
            if not real.is_file():
                raise Refused(f"The folder holds {name}, which is no plain file; take it away.")
            if len(files) == MOST_FILES:
                raise Refused(f"The folder has more than {MOST_FILES} files.")
            files.append((real, PurePosixPath(path.relative_to(source).as_posix()), real.stat().st_size))
    return files


def copy_files(files: list[FoundFile], target: Path, tell: Progress) -> None:
    """So that nothing changes while it is looked at, and later."""
    total = sum(size for *_, size in files)
    target.mkdir(parents=True)
    refuse_full(target, total)
    done = 0
    for real, place, size in files:
        path = target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        # The place that was looked at, and no link that came there since.
        with open(os.open(real, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file, open(path, "xb") as copy:
            shutil.copyfileobj(file, copy, PIECE)
        done += size
        tell(done / max(total, 1))


def find_dataset(folder: Path) -> Path:
    """Where meta/info.json lies."""
    if found := _folder_with(folder, "meta/info.json"):
        return found
    raise Refused(
        "It holds no LeRobot dataset: meta/info.json is missing. Name, or pack, the folder in which meta, data and "
        "videos lie."
    )


def find_model(folder: Path) -> Path:
    """Where config.json lies; where there is none, the folder itself, of which others say what it lacks."""
    return _folder_with(folder, "config.json") or folder


def _folder_with(folder: Path, name: str) -> Path | None:
    """At the top, or in the one folder there, as archives have it."""
    for _ in range(3):
        if (folder / name).is_file():
            return folder
        inside = [each for each in folder.iterdir() if each.is_dir() and each.name != "__MACOSX"]
        if len(inside) != 1:
            break
        folder = inside[0]
    return None
