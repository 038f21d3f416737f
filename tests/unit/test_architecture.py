"""Imports point one way (DESIGN.md section 9): cli → operations → backups, postgres → errors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vecbak

ROOT = Path(vecbak.__file__).parent
MODULES = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
PRINTING_METHODS = {("sys", "stdout"), ("sys", "stderr"), ("sys", "__stdout__"), ("sys", "__stderr__")}


def imports_of(module: str) -> Iterator[str]:
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_any(module: str, *packages: str) -> list[str]:
    return [
        name for name in imports_of(module) if any(name == package or name.startswith(f"{package}.") for package in packages)
    ]  # fmt: skip


def below(folder: str) -> list[str]:
    return [module for module in MODULES if module.startswith(f"{folder}/")]


def test_the_modules_are_found():
    assert {"errors.py", "report/terminal.py", "postgres/runner.py", "backups/files.py", "operations/backup.py"} <= set(
        MODULES
    )


def test_errors_imports_nothing_of_vecbak():
    assert not imports_any("errors.py", "vecbak")


def test_only_the_process_imports_sh():
    assert [module for module in MODULES if imports_any(module, "sh")] == ["postgres/process.py"]


def test_only_one_imports_docker():
    assert [module for module in MODULES if imports_any(module, "docker")] == ["postgres/container.py"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_other_way_to_start_a_program(module):
    assert not imports_any(module, "subprocess", "multiprocessing", "pexpect", "psycopg", "asyncpg")


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(below("report"))))
def test_only_report_prints(module):
    calls = [node.func for node in ast.walk(MODULES[module]) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in {"print", "input"}]
    writes = [call.value for call in calls if isinstance(call, ast.Attribute) and call.attr in {"write", "writelines"}]
    assert not [
        value for value in writes
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name)
        and (value.value.id, value.attr) in PRINTING_METHODS
    ]  # fmt: skip
    echoes = {"echo", "secho", "confirm", "prompt"}
    assert not [
        call for call in calls
        if isinstance(call, ast.Attribute) and call.attr in echoes and isinstance(call.value, ast.Name) and call.value.id == "click"
    ]  # fmt: skip


@pytest.mark.parametrize("module", sorted(below("operations")))
def test_operations_know_no_command_line(module):
    assert not imports_any(
        module,
        "click",
        "rich",
        "vecbak.cli",
        "vecbak.report",
        "vecbak.logbook",
        "vecbak.bars",
        "vecbak.demo",
        "vecbak.server",
    )


@pytest.mark.parametrize("module", sorted(below("operations")))
def test_operations_never_exit(module):
    names = {node.id for node in ast.walk(MODULES[module]) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)}
    assert not names & {"SystemExit", "exit", "quit"}
    assert not attributes & {"exit", "_exit"}


@pytest.mark.parametrize("module", sorted(below("postgres")))
def test_postgres_knows_neither_operations_nor_backups(module):
    assert not imports_any(module, "click", "vecbak.cli", "vecbak.report", "vecbak.operations", "vecbak.backups")


@pytest.mark.parametrize("module", sorted(below("backups")))
def test_backups_know_of_postgres_only_names_and_catalog(module):
    assert not imports_any(module, "click", "vecbak.cli", "vecbak.report", "vecbak.operations")
    postgres = set(imports_any(module, "vecbak.postgres"))
    assert all(name.startswith(("vecbak.postgres.catalog", "vecbak.postgres.names")) for name in postgres)


@pytest.mark.parametrize("module", sorted(below("server")))
def test_the_server_knows_no_command_line(module):
    assert not imports_any(module, "click", "vecbak.cli", "sh")


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(below("server"))))
def test_only_the_server_imports_its_framework(module):
    assert not imports_any(module, "fastapi", "starlette", "uvicorn", "pydantic")


def test_the_config_starts_nothing():
    for module in ("config.py", "config_file.py"):
        assert not imports_any(module, "vecbak.operations", "vecbak.backups.files", "vecbak.cli", "vecbak.report")
        assert not imports_any(module, "vecbak.postgres.runner", "vecbak.postgres.process", "vecbak.postgres.session")
