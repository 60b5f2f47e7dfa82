-- The publication whose tables walcast serves. It starts empty; tables join it one by one:
--   ALTER PUBLICATION supabase_realtime ADD TABLE public.messages;
DO $publication$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = 'supabase_realtime') THEN
        CREATE PUBLICATION supabase_realtime;
    END IF;
END
$publication$;
