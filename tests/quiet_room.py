"""A room for child processes: no network but the computer's own, fresh folders, and all that they
ask is heard.

Where the system allows it, the room is a network namespace in which nothing but loopback is up, and
strace hears also what libraries ask that are not Python. Elsewhere Python's audit events and the
folders have to do."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HOOKS = Path(__file__).with_name("hooks")
# Variables under which a library may be quiet, or speak, anyway.
TOLD_OTHERWISE = (
    "ORT_DISABLE_TELEMETRY",
    "MLFLOW_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
    "CI",
    "TF_BUILD",
    "JENKINS_URL",
)
OWN_FOLDERS = (
    "SQUEEZETUNE_CACHE",
    "MPLCONFIGDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

# Puts loopback up in a new namespace, without any tool, and becomes the command.
ENTER = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lo:
    fcntl.ioctl(lo, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""
CALLS = "connect,sendto,sendmsg,sendmmsg,open,openat,creat,mkdir,mkdirat,rename"
CALLS += ",renameat,renameat2,link,linkat"
CALLS += ",symlink,symlinkat,mknod,mknodat"
STRACE = (
    "strace",
    "-f",
    "--seccomp-bpf",
    "-qqq",
    "-yy",
    "-a",
    "1",
    "-s",
    "512",
    "-e",
    "signal=none",
)


@dataclass(frozen=True)
class Heard:
    """What a command said, and what it did: requests to hosts, and paths that were written."""

    status: int
    said: str
    asked: list[str]
    wrote: list[Path]


@dataclass
class Room:
    """A room for commands, one after the other; what they are to leave behind lies below `work`."""

    root: Path
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        for folder in (self.home, self.temporary, self.work):
            folder.mkdir()
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in TOLD_OTHERWISE + OWN_FOLDERS + PROXIES
        }
        paths = [str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.env = kept | {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",  # that is Python's own
            "LISTENING": str(self.root / "asked.txt"),
        }

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "squeezetune"

    def run(self, *words: object, timeout: float = 240) -> Heard:
        """Run a command of Python's, as `-m squeezetune ...`, and listen."""
        trace, asked = self.root / "trace.txt", Path(self.env["LISTENING"])
        trace.write_text("")
        asked.write_text("")
        tracer = [*STRACE, "-e", f"trace={CALLS}", "-o", str(trace)] if can_trace() else []
        command = [*find_entrance(), *tracer, sys.executable, *map(str, words)]
        status, said = self._run(command, timeout)
        calls = trace.read_text().splitlines()
        return Heard(
            status,
            said,
            [line for line in asked.read_text().splitlines() if not is_here(line)]
            + list_requests(calls),
            list_written(calls, self.work),
        )

    def _run(self, command: list[str], timeout: float) -> tuple[int, str]:
        """Run a command in a session of its own, so that all of it can be ended."""
        with subprocess.Popen(
            command, cwd=self.work, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return process.returncode, said

    def list_strays(self) -> list[Path]:
        """List what lies in the home folder and among temporary files, apart from our cache."""
        return sorted(
            path
            for folder in (self.home, self.temporary)
            for path in folder.rglob("*")
            if self.cache not in (path, *path.parents)
            and path not in self.cache.parents
            and not is_torch_mark(path)
        )

    def is_ours(self, path: Path) -> bool:
        """Say whether a path is below a folder that we may write to, or no file."""
        places = (self.work, self.cache, self.temporary, Path(self.env["LISTENING"]))
        is_place = any(place in (path, *path.parents) for place in places)
        is_gone_memory = Path("/dev/shm") in path.parents and not path.exists()
        return is_place or path in self.cache.parents or path in DEVICES or is_gone_memory


DEVICES = (Path("/dev/null"), Path("/dev/tty"), Path("/dev/ptmx"))


def is_torch_mark(path: Path) -> bool:
    """Say whether this is the empty temporary folder that `torch.export` makes when it is
    loaded.
    """
    return path.name.startswith("torchinductor_") and path.is_dir() and not list(path.iterdir())


def is_here(request: str) -> bool:
    """Say whether a request that Python heard of stays on this computer: its numbers, or a socket
    in a file.
    """
    event, _, address = request.partition(" ")
    hosts = ("127.", "::1", "('127.", "('::1'", "None")
    return address.startswith(hosts) or (event == "socket.connect" and not address.startswith("("))


def list_requests(calls: list[str]) -> list[str]:
    """List the calls that went to another computer, or to a service that looks up names."""
    return [line for line in calls if is_abroad(line)]


def is_abroad(call: str) -> bool:
    """Say whether a call of the system names another computer, or the port of name servers on
    any.
    """
    hosts = re.findall(r'inet_(?:addr|pton)\((?:AF_INET6, )?"([^"]+)"', call)
    is_lookup = re.search(r"htons\(53\)|io\.systemd\.Resolve", call) is not None
    return is_lookup or any(not re.fullmatch(r"127\..*|::1|::ffff:127\..*", host) for host in hosts)


def list_written(calls: list[str], work: Path) -> list[Path]:
    """List the paths that were opened to be written, or made."""
    found = []
    for line in calls:
        if re.search(r"(?<!\w)(open|openat|creat)\(", line):
            opened = re.search(r"O_(WRONLY|RDWR|CREAT|TMPFILE).* = \d+<([^<>]*)", line)
            if opened and opened[2].startswith("/"):
                found.append(Path(opened[2]))
        elif re.search(r"(?<!\w)(mkdir|rename|link|symlink|mknod)(at|at2)?\(.* = 0$", line):
            made = re.search(r'(?:<([^>]*)>, )?"([^"]*)"(?:, [^"]*)?\) = 0$', line)
            assert made, line
            found.append(Path(made[1] or work, made[2]))
    return found


@cache
def find_entrance() -> list[str]:
    """Find how a process gets a network of its own, with loopback alone; none where the system does
    not allow it.
    """
    ways = (
        [["unshare", "--map-root-user", "--net"], ["unshare", "--net"]]
        if shutil.which("unshare")
        else []
    )
    entrances = ([*way, sys.executable, "-c", ENTER] for way in ways)
    return next((words for words in entrances if _succeeds(*words, "true")), [])


@cache
def can_trace() -> bool:
    """Say whether strace is installed and allowed."""
    return bool(shutil.which("strace")) and _succeeds(
        *STRACE, "-e", "trace=connect", "-o", os.devnull, "true"
    )


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
