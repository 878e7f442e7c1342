"""A shell on another machine, by the OpenSSH of this one: the user's config, agent, keys and jump hosts count.

One connection carries all (ControlMaster), over a socket in a private folder. It holds a lock in the device's folder,
and breathes: a byte every BREATH_S seconds. A device that hears nothing for SILENCE_S seconds ends all that the
connection started, so that a cut cable leaves no process there; a link that was closed ends it at once.
"""

import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..runtime.errors import DeviceError, UsageError
from .process import Done, Feed, call

BREATH_S, SILENCE_S = 10, 60
_CONNECT_S = 10
_GRACE_S = 30.0  # how much longer than the device we wait for its answer
_TIME_IS_UP = (124, 137, 143)  # of `timeout`; 143 is BusyBox's
LINK_LOST, NO_RIGHTS, BUSY, NOT_SET_UP, FOREIGN = 255, 73, 75, 76, 77

# Strict: a key that is not known is refused, for a program cannot compare it. No password: nobody is asked.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(_CONNECT_S),
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "4",
    "LogLevel": "ERROR",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "RequestTTY": "no",
}

# What OpenSSH says -> what it means, and what to do.
_REASONS = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "the host key of {host} is not the one that is known: its system was "
     "installed anew, or somebody stands in between; if you know why: ssh-keygen -R '{known}', then: {command}"),
    ("Host key verification failed", "the host key of {host} is not known yet; compare and accept it: {command}"),
    ("Permission denied", "{host} lets nobody in without a password; give it your key: {copy}"),
    ("Could not resolve hostname", "there is no host {host}; check the name, or take its address"),
    ("Connection refused", "nothing listens for ssh on {host}; switch ssh on there (raspi-config), or check the port"),
    ("timed out|No route to host|is unreachable|is down", "{host} does not answer; is it on, and in this network?"),
)  # fmt: skip

# Stands before what a script prints, after what the user's own start files may say.
_MARK = "edgepress:"

# `tidy` removes what a setup has begun and not ended: environments that setup.json does not name, and where there is
# no setup.json the folder. In one that is gone already it does nothing: another may stand under the same name. A
# program that is being ended may still make a file meanwhile, so that `removed` tries twice.
TIDY = """
tidy() {
  [ -e .edgepress ] || return 0
  [ -e setup.json ] || { folder=$PWD; cd / && removed "$folder"; return; }
  rm -f .setup.part
  for venv in venv*; do grep -qsF "\\"$venv/" setup.json || removed "$venv"; done
}
removed() { rm -rf -- "$1" 2>/dev/null || { sleep 1; rm -rf -- "$1"; }; }
"""

# $1 is the folder, $2 what it is opened for: use, setup or clean. Not `flock -w`: BusyBox has none. After a cut stderr
# leads nowhere, and a word there would end the shell before it is done.
_CONTACT = f"""{TIDY}
for tool in flock timeout; do
  command -v "$tool" >/dev/null || {{ echo "there is no $tool; install util-linux and coreutils there" >&2; exit 1; }}
done
[ "$2" != setup ] || mkdir -p -- "$1" || exit {NO_RIGHTS}
cd -- "$1" 2>/dev/null || exit {NOT_SET_UP}
[ -e .edgepress ] || [ -z "$(ls -A)" ] || exit {FOREIGN}
[ "$2" != use ] || [ -e setup.json ] || exit {NOT_SET_UP}
[ -w . ] && exec 4>>.edgepress || exit {NO_RIGHTS}
tries=20
until flock -n 4; do [ "$tries" -gt 0 ] || exit {BUSY}; tries=$((tries - 1)); sleep 0.1; done
[ -e .edgepress ] || exit {BUSY}
echo "{_MARK}"; pwd
while [ -n "$(timeout {SILENCE_S} head -c 1)" ]; do :; done
kill "$PPID" 2>/dev/null
[ "$2" != setup ] || tidy 2>/dev/null
"""

_START = f"""cd -- "$0" || exit {NOT_SET_UP}; echo "{_MARK}"
"""

# `guarded SECONDS COMMAND…`: ends the command when its time is up, and when our side of stdin goes away.
GUARDED = """
guarded() {
  limit=$1; shift; exec 3<&0
  timeout -k 5 "$limit" "$@" 3<&- 4>&- & work=$!
  { read -r _; kill "$work"; } <&3 >/dev/null 2>&1 & watch=$!
  exec 3<&-; wait "$work"; code=$?; kill "$watch" 2>/dev/null; return "$code"
}
"""


@dataclass(frozen=True)
class Place:
    """Where an address leads: `target` is user@host, `folder` the device's folder, relative to the home or absolute."""

    address: str
    target: str
    port: int | None
    folder: str

    @property
    def host(self) -> str:
        """The host's name alone."""
        return self.target.rpartition("@")[2]


@dataclass(frozen=True)
class Shell:
    """An open connection. `folder` is the device's folder, absolute."""

    place: Place
    folder: str
    sockets: Path
    master: subprocess.Popen[str]
    ended: threading.Event

    def sh(self, script: str, *arguments: str, timeout: float | None = None, feed: Feed | None = None) -> str:
        """Run a script of sh in the device's folder with $1, $2 …; returns what it printed.

        Without `feed` its stdin is open and empty as long as we are there. Raises DeviceError: where the link is lost,
        where the time is up (`timeout` bounds the wait; `guarded` ends the program there), where the script fails.
        """
        line = "exec " + shlex.join(["sh", "-c", _START + script, self.folder, *arguments])
        command = [*_ssh(self.place, self.sockets), "-o", "ControlMaster=no", self.place.target, line]
        begun = time.monotonic()
        if self.master.poll() is not None:  # ssh would connect anew, without the lock
            raise DeviceError(_lost(self.place, ""))
        try:
            done = call(command, None if timeout is None else timeout + _GRACE_S, feed=feed, hold=feed is None)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(_no_answer(self.place, timeout or 0)) from error
        if done.code:
            raise DeviceError(_why(self.place, done, timeout, time.monotonic() - begun))
        return done.output.partition(f"{_MARK}\n")[2]

    def close(self) -> None:
        """End the connection, and whatever it still runs on the device."""
        self.ended.set()
        assert self.master.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.master.stdin.close()
        try:
            self.master.wait(2)
        except subprocess.TimeoutExpired:
            self.master.kill()
            self.master.wait()
        for stream in (self.master.stdout, self.master.stderr):
            if stream is not None:
                stream.close()
        shutil.rmtree(self.sockets, ignore_errors=True)


def read_address(address: str) -> Place:
    """Take `ssh://[user@]host[:port][/folder]` apart. Raises UsageError where it is something else.

    >>> read_address("ssh://pi@10.0.0.7").folder
    '.edgepress'
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    name = f"{parts.username}@" if parts.username else ""
    if not host or not re.fullmatch(r"([\w.]+[\w.-]*@)?\w[\w.:%-]*", f"{name}{host}"):
        raise UsageError(
            f"{address!r} is no address of a device; expected ssh://user@host, ssh://user@host:port/folder"
        )
    folder = parts.path.removeprefix("/~/").rstrip("/") or ".edgepress"
    return Place(address, f"{name}{host}", port, folder)


def open_shell(address: str, purpose: str = "use") -> Shell:
    """Connect, and lock the device's folder. `purpose` is use, setup (makes the folder) or clean.

    Raises DeviceError where nobody answers, the host key is not the known one, another run has the lock, or the folder
    is not set up or not ours.
    """
    place = read_address(address)
    sockets = Path(tempfile.mkdtemp(prefix="edgepress-"))
    contact = "exec " + shlex.join(["sh", "-c", _CONTACT, "sh", place.folder, purpose])
    command = [*_ssh(place, sockets), "-o", "ControlMaster=yes", "-o", "ControlPersist=no", place.target, contact]
    pipe = subprocess.PIPE
    master: subprocess.Popen[str] | None = None
    try:
        # In a session of its own: Ctrl-C is for us, who then end what runs, in order.
        master = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace",
                                  start_new_session=True)  # fmt: skip
        assert master.stdout is not None
        ended = threading.Event()
        threading.Thread(target=_breathe, args=(master, ended), daemon=True).start()
        while (line := master.stdout.readline()) not in (f"{_MARK}\n", ""):
            pass
        folder = master.stdout.readline().strip() if line else ""
        shell = Shell(place, folder, sockets, master, ended)
        if folder:
            return shell
        _, errors = master.communicate()
        shell.close()
        raise DeviceError(_why(place, Done(master.returncode, "", errors), None, 0.0))
    except FileNotFoundError as error:
        raise DeviceError(
            "there is no OpenSSH here; on Debian and Ubuntu: sudo apt-get install openssh-client"
        ) from error
    except BaseException:
        if master is not None:
            master.kill()
            master.wait()
        shutil.rmtree(sockets, ignore_errors=True)
        raise


def _ssh(place: Place, sockets: Path) -> list[str]:
    options = _OPTIONS | {"ControlPath": str(sockets / "s")}
    port = [] if place.port is None else ["-p", str(place.port)]
    return ["ssh", "-T", *(part for key, value in options.items() for part in ("-o", f"{key}={value}")), *port]


def _breathe(master: subprocess.Popen[str], ended: threading.Event) -> None:
    assert master.stdin is not None
    with contextlib.suppress(BrokenPipeError, ValueError):  # ValueError: closed meanwhile
        while not ended.is_set():
            master.stdin.write(".")
            master.stdin.flush()
            ended.wait(BREATH_S)


def _no_answer(place: Place, timeout: float) -> str:
    return f"no answer from {place.target} in {timeout:g} s; the program was ended there"


def _why(place: Place, done: Done, timeout: float | None, took: float) -> str:
    """One line for what ended a program on the device, or the link to it."""
    address, folder, target = place.address, place.folder, place.target
    if done.code == LINK_LOST or done.code < 0:
        return _lost(place, done.errors)
    if re.search("No space left on device|Wrote only|Disk quota exceeded|File too large", done.errors):
        other = f"ssh://{target}/FOLDER"
        return f"no space is left on {target} for {folder}; free some, or name another folder: {other}"
    if timeout is not None and took >= timeout and done.code in _TIME_IS_UP:
        return _no_answer(place, timeout)
    if done.code > 128:
        return f"the program was killed by signal {done.code - 128} on {target}; is the memory enough?"
    known = {
        BUSY: f"another run is using {target} ({folder}); wait until it has ended, two at once disturb each other",
        NOT_SET_UP: f"{target} is not set up ({folder}); do it once: edgepress devices setup {address}",
        FOREIGN: f"{folder} on {target} holds other files; name a folder of its own: ssh://{target}/FOLDER",
        NO_RIGHTS: f"{folder} on {target} cannot be written; name another folder: ssh://{target}/FOLDER",
    }
    lines = done.errors.strip().splitlines()
    return known.get(done.code) or f"{target}: {lines[-1] if lines else f'exit code {done.code}, and nothing said'}"


def _lost(place: Place, errors: str) -> str:
    port = "" if place.port is None else f" -p {place.port}"
    known = place.host if place.port is None else f"[{place.host}]:{place.port}"
    words = {"host": place.host, "known": known, "command": f"ssh{port} {place.target}",
             "copy": f"ssh-copy-id{port} {place.target}"}  # fmt: skip
    for pattern, meaning in _REASONS:
        if re.search(pattern, errors):
            return meaning.format(**words)
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    seen = f" ({lines[-1]})" if lines else ""
    return f"the link to {place.target} was lost{seen}; is it on, did it start anew? the same command goes again"
