import errno

from vecbak.errors import VecbakError
from vecbak.operations.copying import explain


def test_an_error_in_one_line():
    assert explain(OSError(errno.ENOSPC, "No space left on device", "/a/b/x.csv.tmp")) == (
        "x.csv.tmp: No space left on device"
    )
    assert explain(OSError("odd")) == "odd"
    assert (
        explain(VecbakError("copying failed", output="ERROR:  disk full\nmore")) == "copying failed: ERROR:  disk full"
    )
    assert explain(VecbakError("copying failed")) == "copying failed"
