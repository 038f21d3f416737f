"""What the README says of messages is what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

import vecbak
from vecbak import errors
from vecbak.config_file import load_config
from vecbak.errors import ExitCode
from vecbak.operations import metrics

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
TROUBLESHOOTING = README.partition("\n## Troubleshooting")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| (`.*?) \| ([\d, ]+) \| .+ \|$", TROUBLESHOOTING, re.MULTILINE)
MESSAGES = [(message, codes) for cell, codes in ROWS for message in re.findall(r"`([^`]+)`", cell)]


def variants(node: ast.AST) -> list[str]:
    """What an expression may say, with … for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(chosen) for chosen in product(*(variants(part) for part in parts))]
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return [before + after for before, after in product(variants(left), variants(right))]
        case ast.IfExp(body=body, orelse=other):
            return variants(body) + variants(other)
        case ast.FormattedValue(value=ast.IfExp() as choice):
            return variants(choice)
    return ["…"]


def texts(node: ast.AST) -> Iterator[str]:
    """Every text in a piece of code."""
    for item in ast.walk(node):
        if isinstance(item, ast.Constant | ast.JoinedStr | ast.BinOp):
            yield from (text for text in variants(item) if text != "…")


def raised() -> Iterator[tuple[str, int | None]]:
    """Every text, with the exit code of the error that is made of it, where that stands beside it."""
    for path in Path(vecbak.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for text in texts(tree):
            yield text, None
        for call in ast.walk(tree):
            kind = getattr(errors, call.func.id, None) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else None  # fmt: skip
            if isinstance(kind, type) and issubclass(kind, errors.VecbakError) and call.args:
                for text in texts(call.args[0]):
                    yield text, int(kind.exit_code)


TEXTS = list(raised())


def pattern(message: str) -> re.Pattern[str]:
    """A documented message: … stands for anything."""
    return re.compile(".*".join(re.escape(part) for part in message.strip("… ").split("…")), re.DOTALL)


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
def test_a_configuration_that_the_readme_shows_loads(text, tmp_path):
    (tmp_path / "vecbak.yaml").write_text(text)
    assert load_config(tmp_path / "vecbak.yaml", {}).config


def test_the_readme_names_every_fact_that_a_hook_is_told_and_every_metric():
    named = set(re.findall(r"`(VECBAK_[A-Z_]+|vecbak_[a-z_]+)(?:\{table\})?`", README))
    source = (Path(vecbak.__file__).parent / "operations" / "hooks.py").read_text("utf-8")
    facts = set(re.findall(r'"(VECBAK_[A-Z_]+)"', source))
    assert len(facts) > 10
    assert facts | set(metrics._METRICS) <= named


def test_the_messages_are_found():
    assert len(MESSAGES) > 50
    assert TROUBLESHOOTING.count("\n| `") == len(ROWS)


@pytest.mark.parametrize(("message", "codes"), MESSAGES, ids=[message for message, _ in MESSAGES])
def test_a_message_of_the_troubleshooting_is_one_of_the_code(message, codes):
    wanted = pattern(message)
    found = [code for text, code in TEXTS if wanted.search(text)]
    assert found, "no such message in the code"
    known = {code for code in found if code is not None}
    documented = {int(code) for code in codes.split(",")}
    assert documented <= set(ExitCode)
    assert not known or known & documented, f"it ends with {known}"


def of_the_runbook() -> list[str]:
    """What the runbook quotes beside an exit code."""
    runbook = README.partition("\n## Runbook")[2].partition("\n## ")[0]
    return re.findall(r"`([^`]+)`\* \(exit", runbook) + re.findall(r"[Ee]xit (?:code )?\d, `([^`]+)`", runbook)


def test_the_runbook_quotes_messages():
    assert len(of_the_runbook()) > 5


@pytest.mark.parametrize("text", sorted({*of_the_runbook()} - {"No space left on device"}))  # the kernel's
def test_a_message_of_the_runbook_is_one_of_the_code(text):
    quoted = pattern(re.sub(r"\d+ s$", "…", text))
    assert any(quoted.search(found) for found, _ in TEXTS)
