-- The server and the role of this connection. On a standby the position is that of the log received.
SELECT current_setting('server_version'), current_setting('server_version_num')::int,
    current_setting('wal_level'), current_database()::text, pg_is_in_recovery(),
    r.rolname::text, r.rolsuper,
    r.rolsuper OR r.rolreplication OR EXISTS (
        SELECT FROM pg_roles AS granted
        WHERE granted.rolname = 'rds_replication' AND pg_has_role(r.oid, granted.oid, 'MEMBER')
    ),
    r.rolbypassrls,
    has_database_privilege(current_database(), 'CREATE'),
    (SELECT count(*) = 2 FROM pg_event_trigger WHERE evtname IN ('walcast_ddl', 'walcast_drop') AND evtenabled <> 'D'),
    current_setting('max_slot_wal_keep_size')
FROM pg_roles AS r WHERE r.rolname = current_user
