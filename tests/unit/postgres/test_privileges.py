"""What is revoked: everything that the backup does not record, and nothing that it does."""

from __future__ import annotations

import pytest

from vecbak.postgres.catalog import Grant
from vecbak.postgres.privileges import Made, grantees, lost, read_grants, revoke, too_open


def grant(grantee: str | None, privilege: str = "SELECT", **fields: object) -> Grant:
    return Grant(grantee=grantee, privilege=privilege, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "recorded", "statements"),
    [
        ([grant("app")], [grant("app")], []),
        ([grant("app")], [grant("app", grantable=True)], []),
        ([grant("app")], [], ['REVOKE SELECT ON TABLE "s"."t" FROM "app" CASCADE;']),
        ([grant('a"b')], [grant("a")], ['REVOKE SELECT ON TABLE "s"."t" FROM "a""b" CASCADE;']),
        ([grant(None)], [grant("PUBLIC")], ['REVOKE SELECT ON TABLE "s"."t" FROM PUBLIC CASCADE;']),
        ([grant("PUBLIC")], [grant(None)], ['REVOKE SELECT ON TABLE "s"."t" FROM "PUBLIC" CASCADE;']),
        ([grant("app", "INSERT")], [grant("app")], ['REVOKE INSERT ON TABLE "s"."t" FROM "app" CASCADE;']),
        (
            [grant("app", grantable=True)],
            [grant("app")],
            ['REVOKE GRANT OPTION FOR SELECT ON TABLE "s"."t" FROM "app" CASCADE;'],
        ),
        ([grant("app")], [grant("app", column="c")], ['REVOKE SELECT ON TABLE "s"."t" FROM "app" CASCADE;']),
        ([grant("app", column="c")], [], ['REVOKE SELECT ("c") ON TABLE "s"."t" FROM "app" CASCADE;']),
    ],
)
def test_what_is_not_recorded_is_revoked(now, recorded, statements):
    made = Made("TABLE", "s", "t", tuple(recorded))
    assert list(revoke(made, now)) == statements
    assert bool(too_open(now, recorded)) == bool(statements)


def test_what_is_lost_is_told():
    recorded = [grant("b"), grant("a", "UPDATE"), grant(None), grant("c", grantable=True), grant("d", column="x")]
    assert grantees(lost([grant("b")], recorded)) == ["PUBLIC", "a", "c", "d"]


def test_names_are_quoted():
    query = read_grants([Made("TYPE", "it's", "\\o"), Made("SCHEMA", None, "x")])
    assert "(0, 'TYPE', 'it''s',  E'\\\\o')" in query
    assert "(1, 'SCHEMA', 'x', 'x')" in query
