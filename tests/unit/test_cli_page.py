"""docs/cli.md against the commands: a section for each, with its options, their defaults, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from queue_eval.cli import root

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
COMMON = "Common to all"
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def commands(
    command: click.Command = root, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, by the words that call it."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from commands(inner, (*path, name))
    if path and not (isinstance(command, click.Group) and command.no_args_is_help):
        yield " ".join(path), command


COMMANDS = dict(commands())


def sections() -> Iterator[tuple[str, str]]:
    for section in PAGE.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        yield heading, text


SECTIONS = dict(sections())
SECTION_OF = {name: text for heading, text in SECTIONS.items() for name in heading.split(", ")}


def rows(text: str) -> Iterator[tuple[set[str], list[str]]]:
    """The rows of all tables of options: the options that a row is about, and its other cells."""
    for table in re.findall(r"^\| option.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for line in table.splitlines():
            first, *cells = re.split(r"(?<!\\)\|", line.strip("|"))
            yield set(OPTION.findall(first)), [cell.replace("`", "").strip() for cell in cells]


def common_to(name: str) -> set[str]:
    """What the first table says that this command has; `on` is its last cell."""
    found = set()
    for names, (_, where) in rows(SECTIONS[COMMON]):
        exceptions = where.partition("all but ")[2].split(", ")
        if where != "queue-eval" and not any(name == one or name.startswith(f"{one} ") for one in exceptions):
            found |= names
    return found


def options_of(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option) and not one.hidden]


def spellings(option: click.Option) -> set[str]:
    return {*option.opts, *option.secondary_opts}


def names_of(command: click.Command) -> set[str]:
    """Every command takes the last three, though its help hides one of them."""
    return set().union(*map(spellings, options_of(command)), {"-h", "--help", "--debug"})


def default_of(option: click.Option) -> str | None:
    """As the help shows it; None where there is none."""
    told = re.search(r"\[default: (.*)\]", option.help or "")
    if told is not None:
        return None if "docs/cli.md" in told[1] else told[1]
    if option.is_flag or not option.show_default:
        return None
    value = option.show_default if isinstance(option.show_default, str) else option.default
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_each_command_has_its_section():
    assert sorted(SECTION_OF) == sorted([COMMON, *COMMANDS])


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_has_its_place_and_default(name):
    command, section = COMMANDS[name], SECTION_OF[name]
    common = common_to(name)
    for option in options_of(command):
        wanted = spellings(option)
        place = SECTIONS[COMMON] if wanted <= common else section
        assert wanted <= set(OPTION.findall(place)), f"{wanted} of {name} is not in its section"
        default = default_of(option)
        if default is not None:
            cells = [cell for names, cells in rows(place) if wanted <= names for cell in cells]
            assert any(default in cell for cell in cells), f"the default of {wanted} is {default}"


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_common_to_all_is_there(name):
    assert common_to(name) <= names_of(COMMANDS[name])


def test_no_other_option_is_told_of():
    every = set().union({"--version"}, *map(names_of, COMMANDS.values()))
    assert {one for one in OPTION.findall(PAGE) if one.startswith("--")} <= every
    for heading, section in SECTIONS.items():
        if heading != COMMON:
            own = set().union(*(names_of(COMMANDS[name]) for name in heading.split(", ")))
            for names, _ in rows(section):
                assert names <= own, heading


def test_sessions_give_options_of_their_command():
    lines = re.findall(r"^\$ queue-eval (.*)$", PAGE, re.MULTILINE)
    assert len(lines) > 20
    for line in lines:
        name = max((one for one in COMMANDS if f"{line} ".startswith(f"{one} ")), key=len)
        assert set(OPTION.findall(line)) <= names_of(COMMANDS[name]), line
