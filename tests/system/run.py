"""What `make test-system` runs: tests that need Debian packages, then compose on a real engine.

Exit codes: 0 passed; 77 cannot run here, with one line that says why; anything else failed.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

import engine
from engine import CHECKOUT, HERE, say

CANNOT_RUN = 77
LIMIT_S = 25 * 60.0  # for all of it
DISK_GB = 8
COMPOSE = HERE / "test_compose.py"
DEVICES = Path("/sys/class/net")
CAPABILITIES = {"SYS_ADMIN": 21, "NET_ADMIN": 12}  # their bits; containers have a root without them


class CannotRunError(Exception):
    """Something of this machine is missing; the message says what."""


def main() -> int:
    end = time.monotonic() + LIMIT_S
    engine.sweep()
    failed = False
    try:
        install(packages())
        before = host()
        failed = native(end - time.monotonic())
        failed |= compose(end)
    except CannotRunError as error:
        print(f"cannot run here: {error}", file=sys.stderr)
        return 1 if failed else CANNOT_RUN
    except (subprocess.SubprocessError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    traces = [key for key, value in host().items() if value != before[key]]
    if traces:
        print(f"error: the run changed the host's {', '.join(traces)}", file=sys.stderr)
    return int(failed or bool(traces))


def packages() -> list[str]:
    """Debian packages that apt.txt names."""
    lines = (CHECKOUT / "apt.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def install(names: Sequence[str]) -> None:
    """Install what is missing. Raises CannotRunError."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *names]
    if not shutil.which("apt-get") or not shutil.which("dpkg-query"):
        raise CannotRunError("apt-get is missing; these tests take their packages from Debian")
    listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    missing = [name for name in names if f"{name} installed" not in listed.splitlines()]
    if not missing:
        return
    if os.geteuid():
        raise CannotRunError(f"not root, and {' '.join(missing)} must be installed with apt-get")
    say(f"installing {' '.join(missing)}")
    apt(["update"])
    apt(["install", "--yes", "--no-install-recommends", *missing])


def apt(words: Sequence[str]) -> None:
    command = ["apt-get", "-qq", "-o", "Acquire::Retries=2", "-o", "DPkg::Lock::Timeout=60", *words]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotRunError(f"apt-get {words[0]} took more than 300 s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise CannotRunError(f"apt-get {words[0]} failed: {lines[-1]}")


def native(timeout_s: float) -> bool:
    """Whether a test without containers failed."""
    files = sorted(set(HERE.glob("test_*.py")) - {COMPOSE})
    return bool(files) and test(files, timeout_s) != 0


def test(files: Sequence[Path], timeout_s: float) -> int:
    command = [sys.executable, "-m", "pytest", *map(str, files)]
    process = engine.attached(command, cwd=CHECKOUT)
    try:
        return process.wait(timeout_s)
    finally:
        engine.stop(process)


def compose(end: float) -> bool:
    """Whether the test of docker-compose.yml failed. Raises CannotRunError."""
    check_root()
    check_disk()
    mirror = usable_mirror()
    with engine.folder() as folder:
        say(f"two small Debian systems, in {folder}")
        engine.bootstrap(folder, mirror)
        engine.prepare(folder)
        command = [sys.executable, "-m", "pytest", "-x", "-s", str(COMPOSE)]
        return engine.run(folder, command, end - time.monotonic()) != 0


def check_root() -> None:
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if os.geteuid() or missing:
        raise CannotRunError(
            f"a Docker engine needs root; this is user {os.geteuid()}, without {' '.join(missing)}"
        )


def check_disk() -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB:
        raise CannotRunError(f"{free:.1f} GB free in {folder}, {DISK_GB} GB are needed")


def usable_mirror() -> str:
    """The Debian mirror of this machine's apt, which must have both releases."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        raise CannotRunError("apt-get has no Debian mirror, or `apt-get update` was never run")
    for release, _ in engine.SYSTEMS.values():
        url = f"{listed[0].rstrip('/')}/dists/{release}/Release"
        try:
            urlopen(url, timeout=30).close()
        except OSError as error:
            raise CannotRunError(f"apt-get's mirror has no {release}: {error}") from error
    return listed[0]


def host() -> dict[str, str]:
    """What a Docker engine could leave behind on this machine."""
    rules = ""
    for program in ("iptables-save", "ip6tables-save"):
        if shutil.which(program):
            listed = subprocess.run([program], capture_output=True, text=True, check=False).stdout
            without_counters = re.sub(r"\[\d+:\d+\]", "", listed).splitlines(True)
            rules += "".join(line for line in without_counters if line[0] != "#")
    paths = ("/var/lib/docker", "/run/docker.sock", "/run/docker.pid", "/etc/docker")
    groups = [str(path) for path in engine.CGROUPS.glob("**/*") if "docker" in path.name]
    return {
        "mounts": Path("/proc/self/mounts").read_text(),
        "network devices": " ".join(sorted(each.name for each in DEVICES.iterdir())),
        "firewall": rules,
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "files": " ".join(path for path in paths if Path(path).exists()),
        "control groups": " ".join(sorted(groups)),
        "temporary files": " ".join(sorted(_temporary())),
    }


def _temporary() -> list[str]:
    root = Path(tempfile.gettempdir())
    return [path.name for path in root.glob(f"{engine.PREFIX}*")]


def end_on_signals() -> None:
    """SIGTERM and SIGHUP end this program as Ctrl-C does: after cleaning up."""

    def end(number: int, _: object) -> None:
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)  # cleaning up takes up to a minute
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end)


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
