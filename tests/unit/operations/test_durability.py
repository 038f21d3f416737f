"""Where a backup lasts, told by names, mounts and variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from vecbak.config import TASK_FOLDERS, Backup
from vecbak.operations import durability
from vecbak.operations.durability import look_at

DISK = "30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
TMPFS = "31 30 0:26 / /mnt/fast\\040disk rw - tmpfs tmpfs rw"
OVERLAY = "30 1 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l"
BOUND = (
    "32 30 8:1 /tmp/airflowtmpx7/out /data rw - ext4 /dev/sda1 rw"  # DockerOperator binds its folder to another name
)
EMPTY_DIR = (
    "33 30 8:1 /var/lib/kubelet/pods/1-2/volumes/kubernetes.io~empty-dir/work /work/scratch rw - ext4 /dev/sda1 rw"
)


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    def write(*lines: str) -> None:
        (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(durability, "_MOUNTS", tmp_path / "mountinfo")
    for name in ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR", *(item[1:] for item in TASK_FOLDERS if item[0] == "$")):
        monkeypatch.delenv(name, raising=False)
    write(DISK)
    return write


@pytest.mark.parametrize(
    "folder",
    [
        "/tmp/airflowtmpabc/vector_bak", "/tmp/tmpx8prefect/b", "/home/a/.tmp_dagster_home_1/b", "/srv/luigi-tmp-77/b", "/data/kestra-wd/tmp/b",
        "/home/runner/work/_temp/b", "/var/jenkins/workspace/job@tmp/b", "/opt/agent/temp/buildTmp/b", "/scratch/pbs.4711.server/b",
        "/scratch/4711.tmpdir/b", "/tmp/systemd-private-0a-x.service-y/tmp/b", "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v",
        "/deep/airflowtmpq/a/b/c/d",
    ],
)  # fmt: skip
def test_folders_of_a_task(mounts, folder):
    place = look_at(Path(folder), TASK_FOLDERS)
    assert place.task_folder
    assert not place.durable
    assert [problem.exit_code for problem in durability.problems(place)] == [4]
    assert look_at(Path(folder), ()).task_folder is None


@pytest.mark.parametrize("name", [item[1:] for item in TASK_FOLDERS if item[0] == "$"])
def test_folders_that_a_variable_names(mounts, monkeypatch, name):
    assert look_at(Path("/scratch/u/4711/out"), TASK_FOLDERS).durable
    for value, found in (
        ("/scratch/u/4711", "/scratch/u/4711"),
        ("/", None),
        ("", None),
        ("scratch", None),
        ("/scratch/u/47", None),
    ):
        monkeypatch.setenv(name, value)
        assert look_at(Path("/scratch/u/4711/out"), TASK_FOLDERS).task_folder == found


@pytest.mark.parametrize(
    "folder", ["/srv/backups", "/home/a/airflow/b", "/data/pbs.prod/b", "/var/lib/x", "/data/temp/b", "/srv/runner"]
)
def test_what_lasts(mounts, folder):
    place = look_at(Path(folder), TASK_FOLDERS)
    assert place.durable
    assert place.warning is None
    assert not list(durability.problems(place))


@pytest.mark.parametrize("folder", ["/tmp/b", "/var/tmp/b", "/dev/shm/b", "/run/user/0/b", "/run/b"])
def test_what_is_temporary(mounts, folder):
    place = look_at(Path(folder), TASK_FOLDERS)
    assert not place.durable
    assert "is for what is temporary" in str(place.warning)
    assert not list(durability.problems(place))


def test_variables_name_temporary_folders_too(mounts, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/data/scratch")
    assert not look_at(Path("/data/scratch/b"), TASK_FOLDERS).durable
    assert look_at(Path("/data/other/b"), TASK_FOLDERS).durable


def test_what_is_mounted(mounts):
    mounts(DISK, TMPFS, BOUND, EMPTY_DIR)
    assert "is in memory (tmpfs)" in str(look_at(Path("/mnt/fast disk/b"), TASK_FOLDERS).warning)
    assert look_at(Path("/mnt/other/b"), TASK_FOLDERS).durable
    assert look_at(Path("/data/b"), TASK_FOLDERS).task_folder == "/tmp/airflowtmpx7"
    assert "empty-dir" in str(look_at(Path("/work/scratch/b"), TASK_FOLDERS).task_folder)
    mounts(OVERLAY, "34 30 8:1 /vol /srv rw - ext4 /dev/sda1 rw")
    assert "goes with the container" in str(look_at(Path("/app/b"), TASK_FOLDERS).warning)
    assert look_at(Path("/srv/b"), TASK_FOLDERS).durable
    mounts("nonsense", "")
    assert look_at(Path("/srv/b"), TASK_FOLDERS).durable


def test_links_are_resolved(mounts, tmp_path):
    (tmp_path / "airflowtmp1").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "airflowtmp1")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "airflowtmp1" / "out").symlink_to("/srv/kept")
    assert look_at(tmp_path / "link" / "b", TASK_FOLDERS).task_folder
    assert look_at(tmp_path / "airflowtmp1" / "out" / "b", TASK_FOLDERS).durable
    assert look_at(tmp_path / "loop" / "b", TASK_FOLDERS).task_folder is None


def test_the_default_is_the_list():
    assert Backup().task_folder_patterns == TASK_FOLDERS
