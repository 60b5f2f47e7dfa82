-- One slot, and what PostgreSQL keeps for it.
SELECT active_pid, wal_status,
    greatest(0, pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, restart_lsn
    ))::bigint
FROM pg_replication_slots WHERE slot_name = $1::text
