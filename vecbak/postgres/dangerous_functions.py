"""Functions that no definition of a table calls, and that a manifest must not call either: they reach beyond their row.

A superuser who restores a manifest would call them: a generated column, a CHECK, a DEFAULT and an index's expression are
computed as rows come in. These run text as SQL, read or write files and large objects, end sessions, take locks, change
settings, sequences, replication or statistics, or wait. A test asks the servers for each of theirs that PUBLIC may not
execute or that is volatile.
"""

from __future__ import annotations

import re

from vecbak.postgres.sql_parser import Node

_OF_POSTGRESQL = (
    # text as SQL, and whole tables as text (https://www.postgresql.org/docs/current/functions-xml.html#FUNCTIONS-XML-MAPPING)
    r"(?:query|cursor|table|schema|database)_to_xml(?:schema|_and_xmlschema)?|ts_stat"
    # files and large objects (…/functions-admin.html#FUNCTIONS-ADMIN-GENFILE, …/lo-funcs.html)
    r"|pg_(?:ls|read|file|logdir)_\w+|pg_stat_file|pg_current_logfile|pg_rotate_logfile\w*"
    r"|lo_(?:close|creat|create|export|from_bytea|get|import|lseek|lseek64|manage|open|put|tell|tell64|truncate|truncate64|unlink|oid)"
    r"|loread|lowrite"
    # settings, sequences, sessions, locks, waiting, messages
    r"|set_config|setval|setseed|pg_(?:cancel|terminate)_backend|pg_reload_conf|pg_sleep(?:_for|_until)?|pg_notify"
    r"|pg_(?:try_)?advisory_\w+|pg_export_snapshot|pg_nextoid|pg_log_\w+"
    # replication, recovery and the write-ahead log
    r"|pg_replication_\w+|pg_(?:create|drop|copy)_\w*replication_slot|pg_logical_\w+|pg_sync_replication_slots|pg_show_replication_\w+"
    r"|pg_create_restore_point|pg_(?:start_backup|stop_backup|backup_start|backup_stop)|pg_switch_wal|pg_promote|pg_wal_replay_\w+"
    r"|pg_xlog_\w+|pg_(?:get_)?wal_\w+|pg_available_wal_summaries"
    # statistics, catalogs and storage
    r"|pg_stat_reset\w*|pg_stat_(?:clear_snapshot|force_next_flush)|pg_(?:restore|clear|set)_(?:attribute|relation)_stats"
    r"|binary_upgrade_\w+|brin_(?:de)?summarize_\w+|gin_clean_pending_list|pg_import_system_collations|pg_extension_config_dump"
    r"|pg_stop_making_pinned_objects|currtid2?"
    # what the server tells its administrators alone
    r"|pg_config|pg_(?:hba_file_rules|ident_file_mappings|show_all_file_settings|lock_status|prepared_xact)"
    r"|pg_get_(?:aios|backend_memory_contexts|loaded_modules|multixact_members|sequence_data|shmem_\w+|wait_events)"
    r"|pg_isolation_test_\w+|pg_(?:safe_snapshot_)?blocking_pids"
    # no function to be called: handlers
    r"|plpgsql_(?:call_handler|inline_handler|validator)|\w+_(?:call|inline)_handler|dsnowball_\w+|amvalidate"
)
_OF_EXTENSIONS = (
    r"dblink\w*|crosstab\w*|connectby|xpath_table|xslt_process|postgres_fdw_\w+|adminpack_\w+|pg_background_\w+"
    r"|http|http_\w+|pageinspect_\w+|get_raw_page|pg_buffercache_evict\w*|pg_prewarm|autoprewarm_\w+|pg_truncate_visibility_map"
    r"|heap_force_\w+|pg_surgery_\w+|plv8_\w+|table_import_from_s3|query_export_to_s3|system|exec|execute|eval|run_command\w*"
)
_DANGEROUS = re.compile(f"(?:{_OF_POSTGRESQL}|{_OF_EXTENSIONS})")
_SCHEMAS = frozenset({"aws_s3", "aws_lambda", "cron", "pglogical", "dbms_sql", "dbms_job", "utl_file", "utl_http"})


def dangerous_call(call: Node) -> str | None:
    """The name of the function that a FuncCall node calls, if no definition may call it.

    Whatever schema it is in: an extension may be anywhere, and a name without one means pg_catalog's.
    """
    names = [part["String"]["sval"] for part in call["funcname"]]
    rewrites = names[-1] == "ts_rewrite" and len(call.get("args", ())) < 3  # with two arguments the second is a query
    if rewrites or _DANGEROUS.fullmatch(names[-1]) or _SCHEMAS.intersection(names[:-1]):
        return ".".join(names)
    return None
