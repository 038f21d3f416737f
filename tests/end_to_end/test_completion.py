"""`vecbak completion`, sourced by the shells it is for."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.command import VECBAK, environment, vecbak

BASH = """
eval "$(vecbak completion bash)"
COMP_WORDS=(vecbak restore latest --mode re) COMP_CWORD=4
$(complete -p vecbak | sed 's/.*-F \\([^ ]*\\).*/\\1/') vecbak
echo "${COMPREPLY[@]}"
"""
ZSH = """
autoload -U compinit; compinit -u -D
compadd() { print -r -- "${(P)@[-1]}" "$@"; }; _describe() { print -r -- "${(P)2}"; }
eval "$(vecbak completion zsh)"
print -r -- "$_comps[vecbak]"
words=(vecbak restore latest --mode re) CURRENT=5
$_comps[vecbak]
"""
FISH = """
vecbak completion fish | source
complete -C "vecbak restore latest --mode re"
"""


@pytest.mark.parametrize(
    ("argv", "script"),
    [
        (["bash", "--norc", "-c"], BASH),
        pytest.param(["zsh", "-f", "-c"], ZSH, marks=pytest.mark.needs("zsh")),
        pytest.param(["fish", "--no-config", "-c"], FISH, marks=pytest.mark.needs("fish")),
    ],
    ids=["bash", "zsh", "fish"],
)
def test_a_shell_completes_a_value(tmp_path, argv, script):
    env = environment(PATH=f"{VECBAK.parent}:/usr/local/bin:/usr/bin:/bin", HOME=str(tmp_path))
    done = subprocess.run(
        [*argv, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "replace" in done.stdout, done.stdout + done.stderr
    assert "append" not in done.stdout


def test_commands_and_options(tmp_path):
    words = environment(_VECBAK_COMPLETE="bash_complete", COMP_WORDS="vecbak doc", COMP_CWORD="1")
    assert vecbak(cwd=tmp_path, env=words).stdout == "plain,doctor\n"
    words = environment(_VECBAK_COMPLETE="bash_complete", COMP_WORDS="vecbak prune --dry", COMP_CWORD="2")
    assert vecbak(cwd=tmp_path, env=words).stdout == "plain,--dry-run\n"


def test_an_unknown_shell(tmp_path):
    assert vecbak("completion", "tcsh", cwd=tmp_path).code == 2
