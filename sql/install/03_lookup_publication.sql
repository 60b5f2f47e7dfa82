-- The publication of tables that policies look things up in, so that the log carries them; they are not served.
-- Walcast adds tables to it by itself where its role owns both; elsewhere their owner does:
--   ALTER PUBLICATION walcast_lookups ADD TABLE public.members;
DO $publication$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = 'walcast_lookups') THEN
        CREATE PUBLICATION walcast_lookups;
    END IF;
END
$publication$;
