"""The project's own virtual environment: made at first use, with the standard library alone.

It lies in ``.venv`` in the repository's root (``EIUP_VENV`` names another folder) and serves the
demo, the tests and the benchmarks. A record inside it holds a hash of every requirement file that
it was installed from, written when pip has finished: a changed file updates the environment, and
an interrupted installation is repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("EIUP_VENV") or ROOT / ".venv").expanduser().absolute()
PYTHON_VERSIONS = ((3, 11), (3, 10))

# Files named *-nodeps.txt are installed by themselves, without their dependencies.
DEMO_REQUIREMENTS = (ROOT / "demo" / "requirements.txt", ROOT / "demo" / "requirements-nodeps.txt")
TEST_REQUIREMENTS = (*DEMO_REQUIREMENTS, ROOT / "tests" / "requirements.txt")

_RECORD = "eiup-installed.json"
_MARKER = "eiup-environment"
_ROUTINE = ("Requirement already satisfied", "Looking in ", "Collecting ", "Using cached ", "  Using cached ")
_HEARTBEAT = 15.0  # seconds between two lines where the output is no terminal


class InstallationError(RuntimeError):
    """The environment could not be made; the message says why and what to do."""


def reexec(module: str, argv: Sequence[str], requirements: Sequence[Path]) -> None:
    """Go on as ``python -m module argv`` inside the environment; returns once inside it.

    Ends the process with a message where the environment cannot be made.
    """
    try:
        python = ensure(requirements)
    except InstallationError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(f"\nInterrupted. Run `python -m {module}` again to go on with the installation.")
    os.environ.update(child_environment())
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    os.chdir(ROOT)
    command = [str(python), "-m", module, *argv]
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(python, command)
    # Windows' exec leaves the console to two processes at once: wait for the child instead.
    process = subprocess.Popen(command)
    while True:
        try:
            sys.exit(process.wait())
        except KeyboardInterrupt:
            continue  # the child has had its own Ctrl-C and ends by itself


def child_environment() -> dict[str, str]:
    """The variables that everything inside the environment runs with: nothing reaches for the network."""
    defaults = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    return {**defaults, **os.environ}


def ensure(requirements: Sequence[Path]) -> Path:
    """Make or update the environment so that it fulfils ``requirements``; returns its Python.

    Raises ``InstallationError`` where that fails. An environment that is up to date costs two file
    reads.
    """
    python = venv_python()
    if python.exists() and _is_current(_read_record(), requirements):
        return python
    base = _base_python()
    _claim_folder()
    with _lock():
        record = _read_record()
        if python.exists() and _is_current(record, requirements):
            return python  # another process was faster
        # What was asked for before stays wanted: all of it goes into one resolution.
        wanted = list(requirements)
        wanted += [ROOT / name for name in record if ROOT / name not in wanted and (ROOT / name).is_file()]
        hashes = {_name(path): _hash(path) for path in wanted}
        (VENV / _RECORD).unlink(missing_ok=True)
        _make_venv(base, python)
        _install(python, wanted, updating=bool(record))
        (VENV / _RECORD).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
    print("The environment is ready.\n", flush=True)
    return python


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


# ----------------------------------------------------------------------------------------- record


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _hash(path: Path) -> str:
    try:
        # Line ends differ between checkouts and mean nothing.
        return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    except FileNotFoundError:
        raise InstallationError(
            f"{path} is missing: restore it with `git checkout -- {_name(path)}`."
        ) from None


def _read_record() -> dict[str, str]:
    try:
        record = json.loads((VENV / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_current(record: dict[str, str], requirements: Sequence[Path]) -> bool:
    return all(record.get(_name(path)) == _hash(path) for path in requirements)


# ------------------------------------------------------------------------------------- the folder


def _base_python() -> str:
    """An interpreter that the pinned packages run on: this one, or one found on this machine."""
    if sys.version_info[:2] in PYTHON_VERSIONS:
        return sys.executable
    for major, minor in PYTHON_VERSIONS:
        version = f"{major}.{minor}"
        for command in ([f"python{version}"], ["py", f"-{version}"]):
            found = _interpreter(command)
            if found and found[1] == version:
                print(f"This is Python {_own_version()}; using {found[0]} instead.")
                return found[0]
    raise InstallationError(
        f"This is Python {_own_version()}. The versions that the webui pins "
        "(gradio 3.41.2, transformers 4.30.2) install on Python 3.11 and 3.10 only.\n"
        "Install Python 3.11 beside this one and run the same command again; it is found by itself."
    )


def _own_version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _interpreter(command: list[str]) -> tuple[str, str] | None:
    """Path and version of the interpreter that ``command`` starts, where it starts one."""
    if not shutil.which(command[0]):
        return None
    code = "import sys; print(sys.executable); print('%d.%d' % sys.version_info[:2])"
    result = subprocess.run([*command, "-c", code], capture_output=True, text=True, check=False)
    lines = result.stdout.split("\n")
    return (lines[0].strip(), lines[1].strip()) if result.returncode == 0 and len(lines) > 1 else None


def _claim_folder() -> None:
    """Mark the folder as ours before anything goes into it; refuse a folder that is not."""
    if VENV.exists() and not (VENV / _MARKER).exists() and any(VENV.iterdir()):
        raise InstallationError(
            f"{VENV} exists and is not this project's environment.\n"
            "Move it away, or set EIUP_VENV to the path of another folder, and run the same command again."
        )
    VENV.mkdir(parents=True, exist_ok=True)
    (VENV / _MARKER).touch()


@contextmanager
def _lock() -> Iterator[None]:
    """Keep a second process from installing at the same time; the system frees it at our end."""
    with (VENV / _MARKER).open("r+b") as file:
        waiting = False
        while not _try_lock(file.fileno()):
            if not waiting:
                print("Another process is installing the environment; waiting for it ...", flush=True)
            waiting = True
            time.sleep(0.5)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _make_venv(base: str, python: Path) -> None:
    if python.exists():
        works = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, check=False)
        version = _interpreter([str(python)])
        if works.returncode == 0 and version and version[1] in {f"{a}.{b}" for a, b in PYTHON_VERSIONS}:
            return
    for entry in VENV.iterdir():
        if entry.name != _MARKER:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    print(f"Making a virtual environment in {_shown(VENV)} ...", flush=True)
    result = subprocess.run([base, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = (result.stdout + result.stderr).strip().splitlines()[-8:]
        raise InstallationError(
            "\n".join(["The virtual environment could not be made:", *(f"    {line}" for line in lines)])
            + "\nOn Debian and Ubuntu, install Python's venv module first: apt install python3-venv"
        )


# -------------------------------------------------------------------------------------------- pip


def _install(python: Path, requirements: Sequence[Path], updating: bool) -> None:
    if updating:
        print("The requirements have changed: updating the environment ...", flush=True)
    else:
        print("Installing packages. This happens once and takes some minutes ...", flush=True)
        if sys.platform == "linux":
            print(
                "(On Linux pip may choose PyTorch's build for CUDA, several GB. Where PIP_EXTRA_INDEX_URL is "
                "set\n to PyTorch's index of CPU builds, it installs a smaller one without CUDA.)",
                flush=True,
            )
    log = VENV / "pip.log"
    log.write_bytes(b"")
    # All files with dependencies in one command, so that no package can pull in another torch.
    resolved = [path for path in requirements if not path.stem.endswith("-nodeps")]
    alone = [path for path in requirements if path.stem.endswith("-nodeps")]
    for options, paths in (([], resolved), (["--no-deps"], alone)):
        if paths:
            files = [part for path in paths for part in ("-r", str(path))]
            _pip(python, [*options, *files], log)


def _pip(python: Path, arguments: list[str], log: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    }
    environment["PYTHONIOENCODING"] = "utf-8"
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=400)
    process = subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
    )
    try:
        with log.open("a", encoding="utf-8") as file, _Status() as status:
            for line in process.stdout or ():
                file.write(line)
                tail.append(line.rstrip())
                status.show(line.strip(), time.monotonic() - started)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code != 0:
        raise InstallationError(_explain("\n".join(tail), log))


def _explain(output: str, log: Path) -> str:
    advice = "Check the network connection and the free disk space, then run the same command again."
    if "No space left" in output:
        advice = "The disk is full: about 2 GB are needed (on Linux with PyTorch's CUDA build about 8 GB)."
    elif "No matching distribution" in output or "Could not find a version" in output:
        advice = (
            "If the network works, one of the pinned packages has no build for this machine: PyTorch 2.13 "
            "is there\nfor Linux, Windows (64-bit) and macOS on Apple silicon, with Python 3.11 and 3.10."
        )
    said = [line for line in output.splitlines() if line.strip() and not line.startswith(_ROUTINE)]
    lines = said[-12:]
    return "\n".join(
        ["The installation failed. pip's last lines:", "", *(f"    {line}" for line in lines), ""]
        + [advice, f"The whole output is in {_shown(log)}."]
    )


class _Status:
    """What pip is doing: one changing line on a terminal, a line now and then elsewhere."""

    def __enter__(self) -> _Status:
        self.terminal = sys.stdout.isatty()
        self.last = time.monotonic()
        return self

    def show(self, line: str, elapsed: float) -> None:
        verb, _, rest = line.partition(" ")
        if verb not in ("Collecting", "Downloading", "Building", "Installing", "Processing"):
            return
        package = rest.split()[0].split("/")[-1] if rest else ""
        all_of_them = line.startswith("Installing collected")
        what = (
            "Installing what was downloaded; this takes a minute or two"
            if all_of_them
            else f"{verb} {package}"
        )
        text = f"  {int(elapsed) // 60}:{int(elapsed) % 60:02d}  {what}"
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", flush=True)
        elif all_of_them or time.monotonic() - self.last > _HEARTBEAT:
            self.last = time.monotonic()
            print(text, flush=True)

    def __exit__(self, *exception: object) -> None:
        if self.terminal:
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", flush=True)


def _shown(path: Path) -> str:
    """``path`` as a reader in the repository's root would write it."""
    return os.path.relpath(path, ROOT) if path.is_relative_to(ROOT) else str(path)
