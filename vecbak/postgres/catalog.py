"""What the catalogs say of the tables: facts that preflight judges and that the manifest keeps; read by `catalog_query`.

Catalogs: https://www.postgresql.org/docs/current/catalogs.html.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec

from vecbak.postgres.names import quote_identifier, quote_name


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """One privilege of somebody other than the owner.

    Attributes:
        grantee: a role; None for everybody (PUBLIC).
        privilege: SELECT, USAGE and so on.
        grantable: whether they may grant it to others.
        column: on which it is, if on one alone.
    """

    grantee: str | None
    privilege: str
    grantable: bool = False
    column: str | None = None


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What others than the owner may do with an object, and with the schema that it is in; older manifests do not know."""

    grants: tuple[Grant, ...] = ()
    schema: tuple[Grant, ...] = ()


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column, as pg_attribute has it.

    Attributes:
        generated: pg_attribute.attgenerated, empty for none.
        identity: pg_attribute.attidentity, empty for none.
        send: the function that makes its binary form.
        binary_obstacles: types in it whose binary form is not safe to load elsewhere.
        storage: PLAIN, EXTERNAL, EXTENDED or MAIN, where it is not the type's own.
    """

    name: str
    type: str
    not_null: bool
    default: str | None
    generated: str
    identity: str
    collation: str | None = None
    send: str | None = None
    binary_obstacles: tuple[str, ...] = ()
    storage: str | None = None
    comment: str | None = None


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """One constraint; `kind` is pg_constraint.contype, `references` the oid of the table that a foreign key points at."""

    name: str
    kind: str
    definition: str
    deferrable: bool = False
    references: int | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """One index, with what pg_get_indexdef leaves out (tablespace, comment, statistics targets by column number).

    Attributes:
        follows_path: it calls functions that may look for others along the search_path. PostgreSQL builds no such index over
            rows: from version 17 on it does so under a path of its own, and before we cannot name one for the functions alone.
    """

    name: str
    definition: str
    method: str
    tablespace: str | None
    comment: str | None
    statistics: dict[str, int]
    valid: bool
    constraint: str | None
    clustered: bool = False
    follows_path: bool = False


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """An operator, by its schema and name."""

    schema: str
    name: str


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sequence stands, as it says itself: its last value, or the first one, which is still to come."""

    value: int
    is_called: bool


class Sequence(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence that gives a column its values.

    Attributes:
        last_value: None if it was never used, or may not be read.
        options: as CREATE SEQUENCE has them, all but the type.
        kind: `identity` and `owned` go with the column; `used` is one that its default, or what that calls, takes values
            from. Empty in older manifests, which know the first two alone.
        type: smallint, integer or bigint; empty in older manifests.
        position: None if it may not be read; older manifests have none.
        file: pg_relation_filenode; another one later means that it was restarted.
        can_enter, can_read, can_update: its schema, and itself: whether we may.
    """

    schema: str
    name: str
    column: str
    last_value: int | None
    options: str = ""
    oid: int = 0
    kind: Literal["identity", "owned", "used", ""] = ""
    type: str = ""
    persistence: str = "p"
    increment: int = 1
    minimum: int = -(2**63)
    maximum: int = 2**63 - 1
    cycle: bool = False
    position: Position | None = None
    file: int | None = None
    can_enter: bool = True
    can_read: bool = True
    can_update: bool = True
    access: Access = Access()

    @property
    def sql(self) -> str:
        """Qualified and quoted."""
        return quote_name(self.schema, self.name)

    @property
    def known_position(self) -> Position | None:
        """Where it stands, as far as that is known."""
        if self.position or self.last_value is None:
            return self.position
        return Position(value=self.last_value, is_called=True)


class ForeignKey(msgspec.Struct, frozen=True, kw_only=True):
    """A foreign key onto a table, onto one that it is a partition of, or onto one of its partitions."""

    name: str
    table_oid: int
    table: str


class Attribute(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a composite type."""

    name: str
    type: str


class UserType(msgspec.Struct, frozen=True, kw_only=True):
    """A type that columns are made of and that neither PostgreSQL nor pgvector brings.

    Attributes:
        sql: as columns call it: qualified, quoted.
        kind: pg_type.typtype: e for an enum, d a domain, c a composite type; t for a table's row.
        extension: that brings it.
        labels: of an enum, in order.
        base: of a domain, with its modifier.
        attributes: of a composite type.
        constraints: of a domain.
    """

    sql: str
    schema: str
    name: str
    kind: str
    extension: str | None = None
    labels: tuple[str, ...] = ()
    base: str | None = None
    not_null: bool = False
    default: str | None = None
    collation: str | None = None
    attributes: tuple[Attribute, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    access: Access = Access()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy of row-level security; `roles` is empty for all (PUBLIC)."""

    name: str
    permissive: bool
    command: str
    roles: tuple[str, ...]
    using: str | None
    check: str | None


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """What row-level security does for a table."""

    enabled: bool = False
    forced: bool = False
    policies: tuple[Policy, ...] = ()


class Reaction(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger or rule.

    Attributes:
        kind: TRIGGER or RULE.
        schema, table: that it is on: the table, or one of its partitions.
        state: pg_trigger.tgenabled, pg_rewrite.ev_enabled: O, A (always), R (in replicas alone) or D (disabled).
        on_load, on_delete, on_truncate: whether an INSERT or UPDATE, a DELETE, a TRUNCATE sets it off.
        fires: whether it does in a session like ours, which session_replication_role has a say in; None: not told.
        owner, owned: who may keep it still; whether we may.
    """

    kind: str
    name: str
    schema: str
    table: str
    state: str
    on_load: bool
    on_delete: bool = False
    on_truncate: bool = False
    fires: bool | None = None
    owner: str = ""
    owned: bool = True

    @property
    def acts(self) -> bool:
        """Whether it is set off at all."""
        return self.state in {"O", "A"} if self.fires is None else self.fires

    @property
    def would_act(self) -> bool:
        """Whether it could change rows while they are loaded, or something else because of them."""
        return self.on_load and self.acts

    @property
    def place(self) -> str:
        """Its table, qualified and quoted."""
        return quote_name(self.schema, self.table)


class Twin(msgspec.Struct, frozen=True, kw_only=True):
    """A constraint's copy on a partition, where it differs: `validated` though the whole is not, or with a comment."""

    schema: str
    table: str
    validated: bool
    comment: str | None


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of every row that comes, and may not hold for those that are there.

    Attributes:
        kind: pg_constraint.contype of a table's constraint (c, f, n); d for a domain's; t for a type that may not read what
            it wrote, as it names objects (regclass), or nothing at all (pg_node_tree).
        schema, table: that it is on, the table or one of its partitions; of a domain, the domain.
        name: of the constraint; of a type, the column.
        definition: pg_get_constraintdef's; of a type, the type.
        validated: whether PostgreSQL once looked at every row.
        inherited: from a table that this one is a part of, where alone it can be dropped.
        owner, owned: who may drop it and add it again; whether we may.
        columns: those that a domain's is about.
        references: the table that a foreign key points at: oid, and name, qualified and quoted.
        twins: on partitions.
        rows: that do not meet it; None: nobody counted.
    """

    kind: str
    schema: str
    table: str
    name: str
    definition: str
    validated: bool
    inherited: bool
    owner: str
    owned: bool
    comment: str | None = None
    columns: tuple[str, ...] = ()
    references: int | None = None
    referenced: str | None = None
    deferrable: bool = False
    twins: tuple[Twin, ...] = ()
    rows: int | None = None

    @property
    def place(self) -> str:
        """Its table or domain, qualified and quoted."""
        return quote_name(self.schema, self.table)


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """A partition, or a partition of one.

    Attributes:
        parent: the name of the table that it is a partition of.
        bound: FOR VALUES …, or DEFAULT.
        partition_by: how it is itself divided, if it is.
        can_copy: whether we may read it by its own name, and all of its rows.
        indexes: those that its parent does not have.
    """

    oid: int
    schema: str
    name: str
    parent: str
    kind: str
    bound: str
    partition_by: str | None
    access_method: str | None
    heap_pages: int
    table_bytes: int
    can_copy: bool
    persistence: str = "p"
    tablespace: str | None = None
    options: tuple[str, ...] = ()
    indexes: tuple[Index, ...] = ()
    protection: Protection = Protection()
    access: Access = Access()


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table.

    Attributes:
        kind: pg_class.relkind.
        access_method: pg_am.amname, None for what has no storage.
        heap_pages: pages of the main fork, without TOAST.
        estimated_rows: pg_class.reltuples, -1 if never analysed.
        total_bytes: pg_total_relation_size: with indexes and TOAST.
        table_bytes: pg_table_size: with TOAST, without indexes.
        row_security: whether row-level security would hide rows from us.
        children: tables that inherit from it.
        foreign_partitions: partitions on other servers, whose rows no lock of ours protects.
        publications: those that carry a TRUNCATE of it to subscribers.
        truncate_triggers: for the record; `reactions` tells more.
        is_owner: whether we may drop its indexes, and change its foreign keys.
        can_create: whether we may build indexes in its schema.
        references: oids of the tables that its foreign keys, or those of its partitions, point at.
        key_operators: what its primary key holds its columns to be equal by, in their order.
        can_alter: whether we may disable its triggers.
        types: that its columns are made of; what one is made of comes before it.
        protection: by row-level security, whether it applies to us or not.
        reactions: triggers and rules, of its partitions too.
        grantees: roles other than the owner that have privileges on it; `access` says which.
        partition_by: how it is divided, if it is.
        partitions: all of them; what they are partitions of comes before them.
        persistence: pg_class.relpersistence.
        options: storage parameters, `name=value`.
        ancestors: oids of the tables that it is a partition of.
        demands: what its rows may not meet.
        unfit_indexes: of it and its partitions, those that PostgreSQL could not build: it begins to use them once the table is
            emptied, and the rows may not fit in.
        condition: SQL that says which of its rows are meant; empty for all of them. What holds for some rows must never
            be done to all: nothing may TRUNCATE a table that has one.
    """

    oid: int
    schema: str
    name: str
    kind: str
    access_method: str | None
    heap_pages: int
    owner: str
    comment: str | None
    can_select: bool
    can_truncate: bool
    row_security: bool
    estimated_rows: int
    total_bytes: int
    table_bytes: int
    children: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    publications: tuple[str, ...]
    truncate_triggers: tuple[str, ...]
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]
    sequences: tuple[Sequence, ...]
    foreign_partitions: tuple[str, ...] = ()
    can_insert: bool = True
    is_owner: bool = True
    can_create: bool = True
    is_partition: bool = False
    references: tuple[int, ...] = ()
    primary_key: tuple[str, ...] = ()
    key_operators: tuple[Operator, ...] = ()
    can_delete: bool = True
    can_alter: bool = True
    types: tuple[UserType, ...] = ()
    protection: Protection = Protection()
    reactions: tuple[Reaction, ...] = ()
    grantees: tuple[str, ...] = ()
    access: Access = Access()
    partition_by: str | None = None
    partitions: tuple[Partition, ...] = ()
    persistence: str = "p"
    tablespace: str | None = None
    options: tuple[str, ...] = ()
    ancestors: tuple[int, ...] = ()
    demands: tuple[Demand, ...] = ()
    unfit_indexes: tuple[str, ...] = ()
    condition: str = ""

    @property
    def relations(self) -> frozenset[int]:
        """Oids of all that a TRUNCATE of it empties: itself and its partitions."""
        return frozenset({self.oid, *(partition.oid for partition in self.partitions)})

    @property
    def sql(self) -> str:
        """Qualified and quoted."""
        return quote_name(self.schema, self.name)

    @property
    def source(self) -> str:
        """What stands behind FROM: a plain table's own rows alone, a partitioned table's all."""
        return self.sql if self.kind == "p" else f"ONLY {self.sql}"

    @property
    def where(self) -> str:
        """` WHERE …` for the rows that are meant, or nothing."""
        return f" WHERE ({self.condition})" if self.condition else ""

    def rows_where(self, condition: str) -> Table:
        """The same table, of which some rows are meant."""
        return msgspec.structs.replace(self, condition=condition)

    def with_positions(self, positions: Mapping[int, Position]) -> Table:
        """The same table, with where its sequences stand, by oid."""
        sequences = tuple(
            msgspec.structs.replace(item, position=found, last_value=found.value if found.is_called else None)
            if (found := positions.get(item.oid))
            else item
            for item in self.sequences
        )
        return msgspec.structs.replace(self, sequences=sequences)

    def rows_asked_for(self, condition: str) -> Table:
        """The same by somebody else's condition, whose names are looked for along the pinned path alone."""
        indexes = tuple(msgspec.structs.replace(index, follows_path=False) for index in self.indexes)
        return msgspec.structs.replace(self, condition=condition, indexes=indexes)

    @property
    def needs_path(self) -> bool:
        """Whether a query of it can be planned along the role's own search_path alone: PostgreSQL inlines what indexes call."""
        mine = any(index.follows_path for index in self.indexes)
        return mine or any(index.follows_path for partition in self.partitions for index in partition.indexes)

    @property
    def copied_columns(self) -> tuple[str, ...]:
        """The columns that can be loaded again: all but the generated ones."""
        return tuple(column.name for column in self.columns if not column.generated)

    def key_among(self, columns: Collection[str]) -> tuple[str, ...]:
        """Its primary key, if these columns hold all of it (a generated column, or one that came later, may be part of it)."""
        return self.primary_key if set(self.primary_key) <= set(columns) else ()

    @property
    def sequence_names(self) -> tuple[str, ...]:
        """The sequences that it owns, qualified and quoted."""
        return tuple(quote_name(item.schema, item.name) for item in self.sequences)

    @property
    def column_list(self) -> str:
        """The copied columns, quoted, for SELECT and COPY."""
        return ", ".join(quote_identifier(name) for name in self.copied_columns)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The database's side of a backup: the server that answered, whatever name it was reached by.

    Attributes:
        extensions: their versions.
        extension_schemas: where their types and operators are.
        address: at which it took our connection (behind a proxy its own); None over a Unix socket.
        port: at which it did, or the socket's number.
        system_identifier: of the cluster and all its copies; None where the server does not tell.
        timeline: on which its WAL is written, or of its last checkpoint while it recovers.
        database_oid: of the database.
        temporary: whether we may make temporary tables.
        event_triggers: that are set off by what is done to tables, indexes and constraints.
    """

    database: str
    user: str
    version: str
    in_recovery: bool
    extensions: dict[str, str]
    encoding: str
    extension_schemas: dict[str, str] = {}
    tablespaces: tuple[str, ...] = ()
    address: str | None = None
    port: int | None = None
    system_identifier: str | None = None
    timeline: int | None = None
    database_oid: int | None = None

    @property
    def name(self) -> str:
        """Which server it is, for people: `10.1.2.3 port 5432, PostgreSQL 16.4, system identifier 7418…`."""
        parts = [
            f"{self.address or 'Unix socket'}{'' if self.port is None else f' port {self.port}'}",
            f"PostgreSQL {self.version}{' standby' if self.in_recovery else ''}",
        ]
        parts += [f"system identifier {self.system_identifier}"] if self.system_identifier else []
        return ", ".join(parts)

    def named(self) -> dict[str, str | int | bool | None]:
        """The same for machines."""
        fields = ("address", "port", "version", "in_recovery", "system_identifier", "timeline", "database_oid")
        return {field: getattr(self, field) for field in fields}

    temporary: bool = True
    event_triggers: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Server and tables, read under the guard's locks; tables in the order asked for."""

    server: Server
    tables: tuple[Table, ...]


def decode_facts(document: Any) -> Facts:
    """Decode what `facts_query` returned."""
    return msgspec.convert(document, Facts)
