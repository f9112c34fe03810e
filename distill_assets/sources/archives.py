"""ZIP archives: unpacked for as long as they are read. Somebody else wrote what is in them, so nothing is believed."""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from distill_assets.errors import SourceError
from distill_assets.sources.files import opened, shown
from distill_assets.spilling import enough_space, temporary_folder

ZIP = ".zip"
# The largest BEIR set, MS MARCO, has 3.2 GB, 3 times its archive. Text of one letter is packed 1,000 times.
_MAX_ENTRIES, _MAX_BYTES, _MAX_RATIO = 10_000, 10 * 10**9, 100
_ENCRYPTED = 1  # bit of an entry's flags
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def is_archive(path: Path) -> bool:
    """Whether a file is a ZIP archive by its name."""
    try:
        return path.name.casefold().endswith(ZIP) and stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A temporary folder with what the archive holds, gone at the end of the block. Errors of it name the archive.

    Left out are hidden files and `__MACOSX`, which macOS adds. Where all lies in one folder, that one is given.

    Raises:
        NoSpaceError: the disk is full.
        SourceError: it is no archive, has a password, or holds what no data set does: a way out of its folder, a link, too much.
    """
    with temporary_folder("distill-archive-") as place:
        try:
            _unpack(archive, place)
            yield _only_folder(place)
        except SourceError as error:
            raise type(error)(str(error).replace(str(place), shown(archive))) from error


def _only_folder(place: Path) -> Path:
    """BEIR's archives hold one folder with the name of the set; its files are no folders."""
    found = list(place.iterdir())
    is_set = len(found) == 1 and found[0].is_dir() and any(path.is_file() for path in found[0].iterdir())
    return found[0] if is_set else place


def _unpack(archive: Path, place: Path) -> None:
    with opened(archive) as file:
        try:
            with zipfile.ZipFile(file) as found:
                _require_harmless(archive, found.infolist(), archive.stat().st_size)
                for entry in found.infolist():
                    if not entry.is_dir() and _is_data(entry):
                        _extract(found, entry, place / entry.filename)
        except _FAULTS as error:
            raise SourceError(
                f"{shown(archive)} cannot be unpacked: {error}; expected a whole ZIP archive: copy it again"
            ) from error


def _is_data(entry: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(entry.filename).parts
    return parts[0] != "__MACOSX" and not any(part.startswith(".") for part in parts)


def _extract(found: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """No more than the entry says that it holds; its checksum tells where it holds something else."""
    target.parent.mkdir(parents=True, exist_ok=True)
    what = f"{entry.filename} of an archive, {entry.file_size / 1e6:,.0f} MB"
    with found.open(entry) as packed, enough_space(target, what), target.open("xb") as out:
        shutil.copyfileobj(packed, out)
    if target.stat().st_size != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename} has another size than the archive says")


def _require_harmless(archive: Path, entries: Sequence[zipfile.ZipInfo], num_packed: int) -> None:
    num_bytes = sum(entry.file_size for entry in entries)
    wrong = [f"{entry.filename!r}, {fault}" for entry in entries if (fault := _fault(entry))]
    if len({entry.filename for entry in entries}) < len(entries):
        wrong.append("a name that is there twice")
    if len(entries) > _MAX_ENTRIES:
        wrong.append(f"{len(entries):,} entries, at most {_MAX_ENTRIES:,} are read")
    if num_bytes > max(_MAX_BYTES, _MAX_RATIO * num_packed):
        wrong.append(f"{num_bytes / 1e9:,.1f} GB in {num_packed / 1e6:,.1f} MB, more than {_MAX_RATIO} times as much")
    if wrong:
        raise SourceError(
            f"{shown(archive)} holds {wrong[0]}; expected the files of a data set and no way out of its folder: nothing was unpacked; "
            "unpack it yourself where you trust it, and give the folder"
        )


def _fault(entry: zipfile.ZipInfo) -> str:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in entry.filename or ":" in path.parts[0]:
        return "a name that leads elsewhere"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link"
    return "which has a password" if entry.flag_bits & _ENCRYPTED else ""
