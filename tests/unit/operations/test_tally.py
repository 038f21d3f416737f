from vecbak.operations.tally import Tally


class Recorder:
    def __init__(self):
        self.told = []

    def started(self, table, rows):
        self.told.append(("started", table, rows))

    def advanced(self, table, rows):
        self.told.append(("advanced", table, rows))

    def finished(self, table, rows, size_bytes):
        self.told.append(("finished", table, rows, size_bytes))

    def failed(self, table):
        self.told.append(("failed", table))


def test_parts_are_added_up():
    recorder = Recorder()
    tally = Tally(recorder, {"items": 10}, {"items": 2}, {7: "items"})
    tally.begin("items", 1)
    tally.begin("items", 2)
    assert sorted(tally.processes) == [1, 2]
    tally.update([(1, 0, 3), (2, 0, 1), (99, 98, 50)])
    tally.copied("items", 1, 6)
    tally.update([(2, 0, 2)])
    tally.finish("items", 60, 6)
    tally.copied("items", 2, 4)
    tally.finish("items", 40, 4)
    tally.update([])
    assert recorder.told == [
        ("started", "items", 10),
        ("advanced", "items", 4),
        ("advanced", "items", 8),
        ("finished", "items", 10, 100),
    ]
    assert (tally.processes, tally.oids) == ([], [7])


def test_pg_dumps_own_process_is_known_by_its_table():
    recorder = Recorder()
    tally = Tally(recorder, {"items": 10}, {"items": 1}, {7: "items"})
    tally.begin("items", 1)
    tally.update([(55, 7, 5)])
    tally.fail("items")
    tally.update([(55, 7, 6)])
    assert recorder.told == [("started", "items", 10), ("advanced", "items", 5), ("failed", "items")]
