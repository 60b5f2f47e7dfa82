-- Takes back what walcast installed. The publications and the replication slot stay, since others may read
-- them; to remove these, too, once walcast is stopped:
--   SELECT pg_drop_replication_slot('walcast');
--   DROP PUBLICATION walcast_lookups;
--   DROP PUBLICATION supabase_realtime;
DROP EVENT TRIGGER IF EXISTS walcast_drop;
DROP EVENT TRIGGER IF EXISTS walcast_ddl;
DROP FUNCTION IF EXISTS walcast.announce_catalog_change();
DROP SCHEMA IF EXISTS walcast;
