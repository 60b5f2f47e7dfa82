-- All of it or nothing, and no name is looked for where somebody else may have put a function or operator of that name.
-- Who holds a table for longer than the time below is not waited for, since others would queue behind; run it again.
BEGIN;
SET LOCAL search_path = '';
SET LOCAL lock_timeout = '1s';
