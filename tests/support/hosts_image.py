"""What a container engine does, as far as our files need it: Dockerfiles are built, containers run.

The base image is this machine's own root file system under an overlay, with this interpreter's installation
as its `/usr/local`, so that `python:3.12-slim` means the Python of the tests. All else is taken at its word:
instructions, users, environment, commands, health checks. Needs root.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.hosts import Host, Network, Process

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:[-+?])([^}]*))?\})")


@dataclass(frozen=True)
class Image:
    """What an image says besides its files."""

    layer: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"


def expand(text: str, values: dict[str, str]) -> str:
    """`text` with its variables, as shells, Dockerfiles and compose files write them."""

    def value(match: re.Match[str]) -> str:
        name, rule, word = match[1] or match[2], match[3], match[4] or ""
        found = values.get(name, "")
        if rule == ":?" and not found:
            raise ValueError(f"{name} is not set: {word}")
        if rule == ":+":
            return word if found else ""
        return found or (word if rule == ":-" else "")

    return "$".join(_VARIABLE.sub(value, part) for part in text.split("$$"))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in order."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    found = []
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        found.append((word.upper(), rest.strip()))
    return found


class Builder:
    """Builds images in memory, where they vanish with the network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.folder = network.folder / "images"
        self.folder.mkdir()
        network.switch("mount", "-t", "tmpfs", "-o", "mode=755", "images", self.folder)

    def build(self, dockerfile: Path, context: Path, name: str, arguments: dict[str, str]) -> Image:
        """Follow the instructions; raises AssertionError with the words of one that fails."""
        stages: dict[str, Image] = {}
        image = Image(self.folder)
        values: dict[str, str] = {}
        for word, rest in instructions(dockerfile):
            if word == "FROM":
                stage = rest.partition(" AS ")[2] or name
                image = Image(self.folder / f"{name}-{len(stages)}")
                stages[stage] = image
                self._mount(image)
                values = {}
            elif word == "ARG":
                variable, _, default = rest.partition("=")
                values[variable] = arguments.get(variable, default.strip('"'))
            else:
                image = self._follow(image, word, rest, context, stages, values)
                stages[stage] = image
        for built in stages.values():
            self._network.switch("umount", "--recursive", built.layer / "root")
        return image

    def _follow(
        self, image: Image, word: str, rest: str, context: Path, stages: dict[str, Image],
        values: dict[str, str],
    ) -> Image:  # fmt: skip
        match word:
            case "RUN":
                self._run(image, rest, values)
            case "COPY":
                self._copy(image, expand(rest, values | image.environment), context, stages)
            case "ENV":
                pairs = (pair.partition("=") for pair in shlex.split(rest))
                new = {key: expand(value, _BASE | image.environment) for key, _, value in pairs}
                return replace(image, environment=image.environment | new)
            case "WORKDIR":
                self._run(replace(image, folder="/"), f"mkdir -p {rest}", {})
                return replace(image, folder=rest)
            case "USER":
                return replace(image, user=rest)
            case "STOPSIGNAL":
                return replace(image, stop_signal=rest)
            case "HEALTHCHECK":
                return replace(image, health=json.loads(rest.partition("CMD ")[2]))
            case "ENTRYPOINT":
                return replace(image, entrypoint=json.loads(rest), command=[])
            case "CMD":
                return replace(image, command=json.loads(rest))
            case _:
                raise ValueError(f"this builder does not know {word}")
        return image

    def volume(self, name: str, image: Image, target: str) -> Path:
        """A named volume: where the image has a folder, it begins as a copy of it, owner and all."""
        place = self.folder / "volumes" / name
        if not place.exists():
            self._network.switch("mkdir", "-p", place.parent)
            self._network.switch("cp", "-a", f"{image.layer}/upper{target}", place)
        return place

    def _mount(self, image: Image) -> None:
        for part in ("upper", "work", "root"):
            self._network.switch("mkdir", "-p", image.layer / part)
        layers = f"lowerdir=/,upperdir={image.layer}/upper,workdir={image.layer}/work"
        self._network.switch("mount", "-t", "overlay", "overlay", "-o", layers, image.layer / "root")
        for command in furnish(image.layer / "root"):
            self._network.switch(*command)

    def _run(self, image: Image, script: str, values: dict[str, str]) -> None:
        # An engine hands on the settings of a proxy; those of pip are this machine's way to its packages.
        pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        command = as_user(image, pip | _BASE | image.environment | values, ["sh", "-c", script])
        self._network.switch("chroot", image.layer / "root", *command, outside=True, timeout_s=600)

    def _copy(self, image: Image, rest: str, context: Path, stages: dict[str, Image]) -> None:
        words = shlex.split(rest)
        options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        place = Path(target) if target.startswith("/") else Path(image.folder) / target
        for source in sources:
            if stage := options.get("from"):
                origin = stages[stage].layer / "root" / source.lstrip("/")
            else:
                origin = self._from_context(context, source)
            into = f"{image.layer}/root{place}" + (f"/{Path(source).name}" if target.endswith("/") else "")
            self._network.switch("mkdir", "-p", Path(into).parent)
            self._network.switch("cp", "-rT", "--preserve=mode,links", origin, into)
            if "chmod" in options:
                self._network.switch("chmod", options["chmod"], into)

    def _from_context(self, context: Path, source: str) -> Path:
        """A copy of what the context has under that path, without what `.dockerignore` keeps out."""
        lines = (context / ".dockerignore").read_text().splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        found = context / source
        folder = self._network.folder / "context"
        shutil.rmtree(folder, ignore_errors=True)
        for file in [found] if found.is_file() else [f for f in found.rglob("*") if f.is_file()]:
            path = file.relative_to(context)
            if not _is_ignored(path, rules):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, folder / path)
        assert (folder / source).exists(), f"{source} is not in the context of the build"
        return folder / source


@dataclass
class Container:
    """A container of an image, on a host of its own."""

    host: Host
    image: Image
    environment: dict[str, str]
    root: Path
    process: Process | None = None

    def start(self, command: Sequence[str]) -> Process:
        self.process = self.host.start(*self._inside(command))
        return self.process

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A further process in it, as of `docker exec`."""
        return self.host.run(*self._inside(command))

    def stop(self, timeout_s: float = 30) -> int:
        assert self.process is not None
        return self.process.end(signal.Signals[self.image.stop_signal], timeout_s)

    def _inside(self, command: Sequence[str]) -> list[str]:
        inside = as_user(self.image, _BASE | self.environment, command, bounded=True)
        return ["chroot", str(self.root), *inside]


def make_container(
    host: Host, image: Image, folder: Path, *, environment: dict[str, str],
    volumes: dict[str, tuple[Path, str]],
) -> Container:  # fmt: skip
    """A container whose root is read-only but for `/tmp` and its volumes: target → (source, mode)."""
    own = folder / "containers" / host.port
    root = own / "root"
    host.check("mkdir", "-p", root, own / "upper", own / "work")
    layers = f"lowerdir={image.layer}/upper:/,upperdir={own}/upper,workdir={own}/work"
    host.check("mount", "-t", "overlay", "overlay", "-o", layers, root)
    for target, (source, _) in volumes.items():
        make = "touch" if source.is_file() else "mkdir -p"
        host.check("sh", "-c", f"{make} {root}{target}")
    host.check("mount", "-o", "remount,ro", root)
    for command in furnish(root):
        host.check(*command)
    host.check("mount", "--bind", "/etc/hosts", root / "etc/hosts")
    for target, (source, mode) in volumes.items():
        place = f"{root}{target}"
        host.check("mount", "--bind", source, place)
        if mode == "ro":
            host.check("mount", "-o", "remount,bind,ro", place)
    return Container(host, image, image.environment | environment, root)


def furnish(root: Path) -> list[list[str]]:
    """Commands that mount what every container has, and the base image's Python."""
    found = [
        ["mount", "-t", "proc", "proc", f"{root}/proc"],
        ["mount", "--rbind", "/dev", f"{root}/dev"],
        ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmp", f"{root}/tmp"],
        ["mount", "-t", "tmpfs", "-o", "mode=1777", "shm", f"{root}/dev/shm"],
    ]
    if _IS_MOVED:
        found.append(["mount", "--bind", sys.base_prefix, f"{root}/usr/local"])
    return found


def as_user(
    image: Image, environment: dict[str, str], command: Sequence[str], *, bounded: bool = False
) -> list[str]:
    """The command as the image's user, in its folder, with this environment only; `bounded`: no rights."""
    user, _, group = image.user.partition(":")
    rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"] if bounded else []
    pairs = [f"{key}={value}" for key, value in environment.items()]
    who = ["setpriv", f"--reuid={user}", f"--regid={group or user}", "--clear-groups", *rights]
    return [*who, "env", "-i", f"--chdir={image.folder}", *pairs, *command]


_IS_MOVED = sys.base_prefix not in ("/usr", "/usr/local")
_BASE = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"} | (
    # It was linked with a library in its former place.
    {"LD_LIBRARY_PATH": "/usr/local/lib"} if _IS_MOVED else {}
)


def _is_ignored(path: Path, rules: list[str]) -> bool:
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        anywhere = rule.startswith("**/")
        own = [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
        names = [*path.parts] if anywhere else own
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            ignored = not rule.startswith("!")
    return ignored

