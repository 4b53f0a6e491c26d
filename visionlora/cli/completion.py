"""Completion with the Tab key: Hydra's, for the console script with its commands and for ``python -m visionlora.COMMAND``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import hydra

from visionlora.cli.commands import COMMANDS
from visionlora.cli.conf import conf_dir
from visionlora.common.errors import UserError

_BASH = """_visionlora() {
    local words=($COMP_LINE) word="${COMP_WORDS[COMP_CWORD]}" ask
    case "${words[0]##*/}" in
        python*) [[ "${words[1]}" == -m && "${words[2]}" == visionlora* ]] || return
                 ask="${words[0]} -m visionlora" ;;
        *) ask="${words[0]}" ;;
    esac
    COMPREPLY=($(compgen -W "$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" $ask -sc query=bash 2>/dev/null)" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
COMP_WORDBREAKS=${COMP_WORDBREAKS//:}
complete -o nospace -o default -F _visionlora visionlora python python3
"""
_ZSH = """(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_visionlora() {
    local -a ask=($words[1]) found
    if [[ ${words[1]:t} == python* ]]; then
        [[ $words[2] == -m && $words[3] == visionlora* ]] || { _files; return }
        ask=($words[1] -m visionlora)
    fi
    found=(${(f)"$(COMP_LINE="${(j: :)words[1,CURRENT-1]} $PREFIX" $ask -sc query=fish 2>/dev/null)"})
    (( $#found )) && compadd -S '' -- $found || _files
}
compdef _visionlora visionlora python python3
"""
_FISH = """function _visionlora
    set -lx COMP_LINE (commandline -cp)
    set -l words (commandline -cpo)
    if string match -q '*python*' $words[1]
        string match -q -- 'visionlora*' "$words[3]"; and $words[1] -m visionlora -sc query=fish 2>/dev/null
    else
        $words[1] -sc query=fish 2>/dev/null
    end
end
complete -c visionlora -f -a '(_visionlora)'
complete -c python -n 'string match -q -- "*-m visionlora*" (commandline -cp)' -a '(_visionlora)'
complete -c python3 -n 'string match -q -- "*-m visionlora*" (commandline -cp)' -a '(_visionlora)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""What a shell evaluates once, so that it asks the console script for completions."""


def complete(words: Sequence[str], command: str | None = None) -> None:
    """Answer ``-sc install=SHELL`` with the script for the shell, and ``-sc query=SHELL`` with the completions of ``$COMP_LINE``.

    Raises:
        UserError: another shell, or neither of the two.
    """
    what, _, shell = (words[0] if words else "").partition("=")
    if what not in ("install", "query") or shell not in SCRIPTS:
        raise UserError(f"completion is installed with -sc install=SHELL, where SHELL is {', '.join(SCRIPTS)}.")
    if what == "install":
        print(SCRIPTS[shell], end="")
        return
    line = re.sub(r"^\s*\S*python\S*\s+-m\s+visionlora[. ]?", "visionlora ", os.environ.get("COMP_LINE", "")).lstrip()
    begun = line.split()[1:]
    if command is None and (not begun or (len(begun) == 1 and not line.endswith(" "))):
        print("\n".join(name for name in COMMANDS if name.startswith(begun[0] if begun else "")))
        return
    command = command or begun.pop(0)
    if command in COMMANDS:
        os.environ["COMP_LINE"] = " ".join(["visionlora", *begun, *([""] if line.endswith(" ") else [])])
        sys.argv[1:] = ["-sc", f"query={shell}"]
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(lambda _: None)()
