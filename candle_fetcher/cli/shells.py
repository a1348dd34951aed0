"""Scripts by which bash, zsh and fish complete the words of a command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

_IMPLIED = "fetch"  # the command of flags without a command


class Values(NamedTuple):
    """What completes an argument: words, files, folders, or nothing that is known before."""

    kind: Literal["words", "files", "folders", "nothing"]
    words: tuple[str, ...] = ()


class Flag(NamedTuple):
    """A flag with its spellings and its help; `takes` is None where it has no value."""

    names: tuple[str, ...]
    says: str
    takes: Values | None
    repeats: bool = False


class Words(NamedTuple):
    """A word that is no flag; it may be there several times. `after` names the first words behind which it is
    completed, all where it is empty."""

    takes: Values
    repeats: bool = False
    after: tuple[str, ...] = ()


class Command(NamedTuple):
    """A command, its help, its flags and its words in their order."""

    name: str
    says: str
    flags: Sequence[Flag]
    words: Sequence[Words]

    @property
    def spellings(self) -> list[str]:
        """All spellings of all flags."""
        return [name for flag in self.flags for name in flag.names]

    @property
    def with_value(self) -> list[str]:
        """The spellings of flags that take a value."""
        return [name for flag in self.flags if flag.takes is not None for name in flag.names]


# -- bash --------------------------------------------------------------------------------------------------------------

_BASH = """\
# Completion of candle-fetcher for bash. Made by: candle-fetcher completion bash
_candle_fetcher() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}}
    local words= files= folders= valued= flags= first= place=0 at=2 i
    COMPREPLY=()
    # bash cuts --flag=value into three words
    if [[ $current == = ]]; then
        current=
    elif [[ $before == = && COMP_CWORD -gt 2 ]]; then
        before=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    if [[ $command == -* ]]; then
        command={implied} at=1
    elif (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W "{commands}" -- "$current"))
        return
    fi
    case $command in
{cases}
        *) return ;;
    esac
    if [[ " $valued " != *" $before "* ]]; then
        if [[ $current == -* ]]; then
            COMPREPLY=($(compgen -W "$flags" -- "$current"))
            return
        fi
        # which of the words without a flag this is
        for (( i = at; i < COMP_CWORD; i++ )); do
            if [[ ${{COMP_WORDS[i]}} == = || " $valued " == *" ${{COMP_WORDS[i]}} "* ]]; then
                [[ ${{COMP_WORDS[i+1]}} == = ]] || (( i++ ))
            elif [[ ${{COMP_WORDS[i]}} != -* ]]; then
                (( place++ ))
                : "${{first:=${{COMP_WORDS[i]}}}}"
            fi
        done
        before=$place
    fi
    case "$command $before" in
{values}
    esac
    if [[ -n $files ]]; then
        compopt -o filenames 2>/dev/null
        local IFS=$'\n'
        COMPREPLY=($(compgen -f -- "$current"))
    elif [[ -n $folders ]]; then
        compopt -o filenames 2>/dev/null
        local IFS=$'\n'
        COMPREPLY=($(compgen -d -- "$current"))
    elif [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -F _candle_fetcher candle-fetcher
"""


def bash_script(commands: Sequence[Command]) -> str:
    """Return the script for bash."""
    cases = [
        f'        {one.name}) flags="{" ".join(one.spellings)}"; valued="{" ".join(one.with_value)}" ;;'
        for one in commands
    ]
    values = []
    for one in commands:
        for flag in one.flags:
            if flag.takes is not None and flag.takes.kind != "nothing":
                patterns = "|".join(f'"{one.name} {name}"' for name in flag.names)
                values.append(f"        {patterns}) {_bash_values(flag.takes)} ;;")
        for place, word in enumerate(one.words):
            if word.takes.kind != "nothing":
                pattern = f'"{one.name} {place}"' if not word.repeats else f'"{one.name} "[{place}-9]'
                does = _bash_values(word.takes)
                if word.after:
                    does = f'[[ " {" ".join(word.after)} " == *" $first "* ]] && {does}'
                values.append(f"        {pattern}) {does} ;;")
    names = " ".join(one.name for one in commands)
    return _BASH.format(implied=_IMPLIED, commands=names, cases="\n".join(cases), values="\n".join(values))


def _bash_values(takes: Values) -> str:
    return f'words="{" ".join(takes.words)}"' if takes.kind == "words" else f"{takes.kind}=1"


# -- zsh ---------------------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef candle-fetcher
# Completion of candle-fetcher for zsh. Made by: candle-fetcher completion zsh
_candle-fetcher() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        _describe -t commands command commands
        return
    fi
    local command={implied}
    if [[ $words[2] != -* ]]; then
        command=$words[2]
        shift words
        (( CURRENT-- ))
    fi
    case $command in
{cases}
    esac
}}
if [[ $funcstack[1] == _candle-fetcher ]]; then
    _candle-fetcher "$@"
else
    compdef _candle-fetcher candle-fetcher
fi
"""


def zsh_script(commands: Sequence[Command]) -> str:
    """Return the script for zsh, for a file `_candle-fetcher` in its fpath, or for `source`."""
    names = "\n".join(f"        {shlex.quote(f'{one.name}:{one.says}')}" for one in commands)
    cases = []
    for one in commands:
        specs = [*_zsh_flags(one.flags), *_zsh_words(one.words)]
        lines = " \\\n                ".join(specs)
        cases.append(f"        {one.name})\n            _arguments -s \\\n                {lines}\n            ;;")
    return _ZSH.format(implied=_IMPLIED, commands=names, cases="\n".join(cases))


def _zsh_flags(flags: Iterable[Flag]) -> list[str]:
    specs = []
    for flag in flags:
        others = "*" if flag.repeats else f"({' '.join(flag.names)})" if len(flag.names) > 1 else ""
        for name in flag.names:
            sign = "" if flag.takes is None else "=" if name.startswith("--") else "+"
            value = "" if flag.takes is None else f":value:{_zsh_values(flag.takes)}"
            says = re.sub(r"([\\\[\]:])", r"\\\1", flag.says)
            specs.append(shlex.quote(f"{others}{name}{sign}[{says}]{value}"))
    return specs


def _zsh_words(words: Sequence[Words]) -> list[str]:
    specs = []
    for place, word in enumerate(words, start=1):
        # A message would keep zsh from completing a flag in this place.
        value = "{true}" if word.takes.kind == "nothing" else _zsh_values(word.takes)
        if word.after:
            value = f"{{[[ $words[2] == ({'|'.join(word.after)}) ]] && {value}}}"
        specs.append(shlex.quote(f"{'*' if word.repeats else place}:word:{value}"))
    return specs


def _zsh_values(takes: Values) -> str:
    known = {"files": "_files", "folders": "_files -/", "nothing": " "}
    return f"({' '.join(takes.words)})" if takes.kind == "words" else known[takes.kind]


# -- fish --------------------------------------------------------------------------------------------------------------

_FISH = """\
# Completion of candle-fetcher for fish. Made by: candle-fetcher completion fish
function __candle_fetcher_in
    # whether the command is this one; flags without a command are those of {implied}
    set -l typed (commandline -opc)
    if test (count $typed) -gt 1; and not string match -q -- '-*' $typed[2]
        test $typed[2] = $argv[1]
    else
        test {implied} = $argv[1]; and string match -q -- '-*' $typed[2] (commandline -ct)
    end
end
function __candle_fetcher_at
    # whether the next word is number $argv[2] of those of the command $argv[1], or with $argv[3] = + a later one
    __candle_fetcher_in $argv[1]; or return 1
    set -l place 0
    set -l is_value 0
    set -l typed (commandline -opc)
    set -l from 3
    string match -q -- '-*' $typed[2]; and set from 2
    for word in $typed[$from..-1]
        if test $is_value = 1
            set is_value 0
        else if contains -- $word {valued}
            set is_value 1
        else if not string match -q -- '-*' $word
            set place (math $place + 1)
        end
    end
    test $is_value = 0; or return 1
    test $place -eq $argv[2]; or begin; test "$argv[3]" = +; and test $place -ge $argv[2]; end
end
function __candle_fetcher_first
    # whether the first word of the command is one of these
    set -l typed (commandline -opc)
    test (count $typed) -gt 2; and contains -- $typed[3] $argv
end
complete -c candle-fetcher -f
{lines}
"""


def fish_script(commands: Sequence[Command]) -> str:
    """Return the script for fish."""
    is_first = "'test (count (commandline -opc)) -eq 1'"
    lines = [f"complete -c candle-fetcher -n {is_first} -a {one.name} -d {_fish_quote(one.says)}" for one in commands]
    for one in commands:
        for flag in one.flags:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
            takes = "" if flag.takes is None else _fish_values(flag.takes)
            lines.append(
                f"complete -c candle-fetcher -n '__candle_fetcher_in {one.name}' {names}{takes}"
                f" -d {_fish_quote(flag.says)}"
            )
        for place, word in enumerate(one.words):
            if word.takes.kind == "nothing":
                continue
            test = f"__candle_fetcher_at {one.name} {place}{' +' if word.repeats else ''}"
            if word.after:
                test += f"; and __candle_fetcher_first {' '.join(word.after)}"
            takes = _fish_values(word.takes).replace(" -r -F", " -F").replace(" -x", " -f")
            lines.append(f"complete -c candle-fetcher -n '{test}'{takes}")
    valued = sorted({name for one in commands for name in one.with_value})
    return _FISH.format(implied=_IMPLIED, valued=" ".join(valued), lines="\n".join(lines))


def _fish_values(takes: Values) -> str:
    known = {"files": " -r -F", "folders": " -x -a '(__fish_complete_directories)'", "nothing": " -x"}
    return f" -x -a {_fish_quote(' '.join(takes.words))}" if takes.kind == "words" else known[takes.kind]


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SCRIPTS: dict[str, Callable[[Sequence[Command]], str]] = {
    "bash": bash_script,
    "zsh": zsh_script,
    "fish": fish_script,
}
