"""What the catalogs say of the tables: facts that preflight judges and that the manifest keeps; read by `catalog_query`.

Catalogs: https://www.postgresql.org/docs/current/catalogs.html.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vecbak.postgres.names import quote_identifier, quote_name


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
    """One index, with what pg_get_indexdef leaves out (tablespace, comment, statistics targets by column number)."""

    name: str
    definition: str
    method: str
    tablespace: str | None
    comment: str | None
    statistics: dict[str, int]
    valid: bool
    constraint: str | None
    clustered: bool = False


class Sequence(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence owned by a column; `last_value` None if it was never used, or may not be read; `options` as CREATE SEQUENCE has them."""

    schema: str
    name: str
    column: str
    last_value: int | None
    options: str = ""


class ForeignKey(msgspec.Struct, frozen=True, kw_only=True):
    """A foreign key of another table onto this one."""

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
        on_load: whether an INSERT or UPDATE sets it off.
    """

    kind: str
    name: str
    schema: str
    table: str
    state: str
    on_load: bool

    @property
    def would_act(self) -> bool:
        """Whether it could change rows while they are loaded, or something else because of them."""
        return self.on_load and self.state in {"O", "A"}


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
        truncate_triggers: enabled triggers that a TRUNCATE of it fires.
        is_owner: whether we may drop and build its indexes.
        references: oids of the tables that its foreign keys point at.
        delete_triggers: enabled triggers that a DELETE from it fires.
        delete_rules: rules that rewrite a DELETE from it.
        can_alter: whether we may disable its triggers.
        types: that its columns are made of; what one is made of comes before it.
        protection: by row-level security, whether it applies to us or not.
        reactions: triggers and rules, of its partitions too.
        grantees: roles other than the owner that have privileges on it.
        partition_by: how it is divided, if it is.
        partitions: all of them; what they are partitions of comes before them.
        persistence: pg_class.relpersistence.
        options: storage parameters, `name=value`.
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
    is_partition: bool = False
    references: tuple[int, ...] = ()
    primary_key: tuple[str, ...] = ()
    can_delete: bool = True
    delete_triggers: tuple[str, ...] = ()
    delete_rules: tuple[str, ...] = ()
    can_alter: bool = True
    types: tuple[UserType, ...] = ()
    protection: Protection = Protection()
    reactions: tuple[Reaction, ...] = ()
    grantees: tuple[str, ...] = ()
    partition_by: str | None = None
    partitions: tuple[Partition, ...] = ()
    persistence: str = "p"
    tablespace: str | None = None
    options: tuple[str, ...] = ()
    condition: str = ""

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

    @property
    def copied_columns(self) -> tuple[str, ...]:
        """The columns that can be loaded again: all but the generated ones."""
        return tuple(column.name for column in self.columns if not column.generated)

    @property
    def sequence_names(self) -> tuple[str, ...]:
        """The sequences that it owns, qualified and quoted."""
        return tuple(quote_name(item.schema, item.name) for item in self.sequences)

    @property
    def column_list(self) -> str:
        """The copied columns, quoted, for SELECT and COPY."""
        return ", ".join(quote_identifier(name) for name in self.copied_columns)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The database's side of a backup; of the extensions their versions and where their types and operators are."""

    database: str
    user: str
    version: str
    in_recovery: bool
    extensions: dict[str, str]
    encoding: str
    extension_schemas: dict[str, str] = {}
    tablespaces: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Server and tables, read under the guard's locks; tables in the order asked for."""

    server: Server
    tables: tuple[Table, ...]


def decode_facts(document: Any) -> Facts:
    """Decode what `facts_query` returned."""
    return msgspec.convert(document, Facts)
