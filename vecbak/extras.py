"""How an extra of vecbak is installed: the way in which vecbak itself was, for its name is nobody's on the package index."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

_NAME = "vecbak"
_OF_AN_EXTRA = re.compile(r"""\bextra\s*==\s*["']([^"']+)["']""")


def install_hint(extra: str) -> str:
    """The command that installs what an extra needs into this Python's environment.

    Args:
        extra: `embedded`, `docker` or `api`.
    """
    try:
        distribution = importlib.metadata.distribution(_NAME)
    except importlib.metadata.PackageNotFoundError:
        return _pip(*_of_the_source(extra))
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return _pip(*(_from_origin(origin, extra) or _requirements(distribution.requires or [], extra)))


def _from_origin(origin: dict[str, Any], extra: str) -> list[str]:
    """The same source with the extra, as https://packaging.python.org/en/latest/specifications/direct-url/ records it."""
    url = str(origin.get("url", ""))
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        editable = ["--editable"] if origin.get("dir_info", {}).get("editable") else []
        return [*editable, f"{path}[{extra}]"] if path.exists() else []
    if not url:
        return []
    # a token may stand before the host
    place = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if vcs := origin.get("vcs_info"):
        place = f"{vcs['vcs']}+{place}@{vcs['commit_id']}"
    return [f"{_NAME}[{extra}] @ {place}"]


def _requirements(requires: list[str], extra: str) -> list[str]:
    """What the extra needs, by its own names: they are on the index."""
    wanted = []
    for line in requires:
        requirement, _, marker = line.partition(";")
        match = _OF_AN_EXTRA.search(marker)
        if match and match.group(1) == extra:
            wanted.append(requirement.strip())
    return wanted


def _of_the_source(extra: str) -> list[str]:
    return ["--editable", f"{Path(__file__).parent.parent}[{extra}]"]


def _pip(*words: str) -> str:
    python = shlex.quote(sys.executable)
    # uv makes environments without pip
    tool = f"{python} -m pip install" if importlib.util.find_spec("pip") else f"uv pip install --python {python}"
    return f"{tool} {shlex.join(words)}"
