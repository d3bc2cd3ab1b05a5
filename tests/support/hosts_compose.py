"""The services of a compose file as containers on hosts of their own: what `docker compose up` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from queue_eval.server.programs import server_binary
from tests.support.hosts import Network
from tests.support.hosts_image import Builder, Container, Image, expand, make_container
from tests.support.waiting import wait_until

PATIENCE_S = 90.0

_VALKEY = """\
FROM valkey/valkey
RUN useradd --system --user-group valkey
COPY valkey-server valkey-cli /usr/bin/
RUN install -d -o valkey -g valkey /data
"""
"""Stands for the official image, as far as the compose file uses it."""


class Compose:
    """A project: `values` are what its `.env` sets. Images are built when they are first needed."""

    def __init__(self, network: Network, file: Path, cli: str, **values: str) -> None:
        self.network = network
        self.file = file
        self.values = values
        self.content: dict[str, Any] = yaml.safe_load(file.read_text())
        self._builder = Builder(network)
        self._images: dict[str, Image] = {}
        self._cli = cli

    def service(self, name: str) -> dict[str, Any]:
        """A service, its variables replaced."""
        found: dict[str, Any] = _filled(self.content["services"][name], self.values)
        return found

    def image(self, name: str) -> Image:
        """The image of a service."""
        service = self.service(name)
        tag = service["image"]
        if tag not in self._images:
            built = self._build(tag, service["build"]) if "build" in service else self._valkey()
            self._images[tag] = built
        return self._images[tag]

    def up(
        self, name: str, host: str | None = None, *, command: list[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Container:  # fmt: skip
        """Start a container of a service, on a host that is named as the service unless `host` says else."""
        container = self.create(name, host)
        container.environment |= environment or {}
        service = self.service(name)
        image = container.image
        container.start([
            *service.get("entrypoint", image.entrypoint),
            *(command or service.get("command") or ([] if "entrypoint" in service else image.command)),
        ])  # fmt: skip
        return container

    def create(self, name: str, host: str | None = None) -> Container:
        service = self.service(name)
        image = self.image(name)
        if user := service.get("user"):
            image = Image(image.layer, image.environment, user)
        return make_container(
            self.network.host(host or name), image, self._builder.folder,
            environment={key: str(value) for key, value in service.get("environment", {}).items()},
            volumes=dict(self._volume(image, words) for words in service.get("volumes", [])),
        )  # fmt: skip

    def health(self, name: str, container: Container) -> int:
        """The exit status of the service's health check."""
        test = self.service(name).get("healthcheck", {}).get("test") or ["CMD", *container.image.health]
        command = test[1:] if test[0] == "CMD" else ["sh", "-c", test[1]]
        return container.run(*command).returncode

    def wait_healthy(self, name: str, container: Container) -> None:
        def healthy() -> bool:
            assert container.process is not None
            assert container.process.is_running, container.process.output
            return self.health(name, container) == 0

        wait_until(healthy, PATIENCE_S)

    def _build(self, tag: str, build: dict[str, Any]) -> Image:
        context = (self.file.parent / build["context"]).resolve()
        return self._builder.build(context / build["dockerfile"], context, tag, build.get("args", {}))

    def _valkey(self) -> Image:
        context = self.network.folder / "valkey"
        context.mkdir()
        (context / "Dockerfile").write_text(_VALKEY)
        (context / ".dockerignore").write_text("")
        for name, program in (("valkey-server", server_binary()), ("valkey-cli", Path(self._cli))):
            (context / name).write_bytes(program.read_bytes())
            (context / name).chmod(0o755)
        return self._builder.build(context / "Dockerfile", context, "valkey", {})

    def _volume(self, image: Image, words: str) -> tuple[str, tuple[Path, str]]:
        source, target, mode = (*words.split(":"), "rw")[:3]
        if source in self.content["volumes"]:
            return target, (self._builder.volume(source, image, target), mode)
        return target, ((self.file.parent / source).resolve(), mode)


def _filled(item: Any, values: dict[str, str]) -> Any:
    if isinstance(item, str):
        return expand(item, values)
    if isinstance(item, list):
        return [_filled(part, values) for part in item]
    if isinstance(item, dict):
        return {key: _filled(part, values) for key, part in item.items()}
    return item


def workers_of(container: Container) -> list[dict[str, Any]]:
    """What the server knows of the workers, asked in a container."""
    asked = container.run("queue-eval", "workers", "--json")
    assert asked.returncode == 0, asked.stderr
    found: list[dict[str, Any]] = json.loads(asked.stdout)
    return found
