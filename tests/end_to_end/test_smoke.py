from tests.support.workspace import Workspace


def test_backup(filled, tmp_path):
    done = Workspace(tmp_path, filled).run("backup", "--json")
    assert done.code == 0, done.stderr
    assert done.json["backup_performed"] is True
