-- Takes back what walcast installed. The publication and the replication slot stay, since others may read
-- them; to remove these, too:
--   DROP PUBLICATION supabase_realtime;
--   SELECT pg_drop_replication_slot('walcast');
DROP EVENT TRIGGER IF EXISTS walcast_drop;
DROP EVENT TRIGGER IF EXISTS walcast_ddl;
DROP FUNCTION IF EXISTS walcast.announce_catalog_change();
DROP SCHEMA IF EXISTS walcast;
