//! Policies with look-ups that were once decided otherwise than PostgreSQL does, or nearly were.

use super::look_ups::Decided;

/// A small world for all cases; `posts` is judged first of all.
pub(crate) const SETTING: &str = r"
DROP SCHEMA IF EXISTS public, side, lookup_reader CASCADE; CREATE SCHEMA public; CREATE SCHEMA side;
GRANT USAGE ON SCHEMA public, side TO PUBLIC;
CREATE TYPE public.rank AS ENUM ('guest', 'member', 'admin');
CREATE TABLE public.posts (k int, id int PRIMARY KEY, room int, author uuid, title text, open boolean);
CREATE TABLE public.rooms (k int, id int PRIMARY KEY, owner uuid, team int, open boolean);
CREATE TABLE public.members (k int, room int, person uuid, team int, PRIMARY KEY (room, person));
CREATE TABLE public.profiles (k int, id uuid PRIMARY KEY, role text, team int);
INSERT INTO public.posts VALUES
  (1, 1, 1, '0d8b1f4e-0000-4000-8000-00000000000a', 'a', true), (2, 2, 2, NULL, 'b', false),
  (3, 3, NULL, '0d8b1f4e-0000-4000-8000-00000000000b', 'x', NULL), (4, 4, 3, '0d8b1f4e-0000-4000-8000-00000000000c', NULL, true);
INSERT INTO public.rooms VALUES
  (1, 1, '0d8b1f4e-0000-4000-8000-00000000000a', 1, true), (2, 2, '0d8b1f4e-0000-4000-8000-00000000000b', 2, false),
  (3, 3, NULL, NULL, NULL);
INSERT INTO public.members VALUES
  (1, 1, '0d8b1f4e-0000-4000-8000-00000000000a', 2), (2, 1, '0d8b1f4e-0000-4000-8000-00000000000b', 1),
  (3, 2, '0d8b1f4e-0000-4000-8000-00000000000b', NULL), (4, 3, '0d8b1f4e-0000-4000-8000-00000000000a', 1);
INSERT INTO public.profiles VALUES
  (1, '0d8b1f4e-0000-4000-8000-00000000000a', 'member', 1), (2, '0d8b1f4e-0000-4000-8000-00000000000b', 'admin', 2),
  (3, '0d8b1f4e-0000-4000-8000-00000000000c', NULL, 1);
GRANT SELECT ON ALL TABLES IN SCHEMA public
  TO lookup_reader, lookup_member, lookup_limited, lookup_owner, lookup_bypass, lookup_definer;
CREATE INDEX ON public.posts (k);
ALTER TABLE public.posts ENABLE ROW LEVEL SECURITY;
ALTER PUBLICATION worlds SET TABLE public.posts, public.rooms, public.members, public.profiles;
";

/// What is true, the statements that show it, and how the policies of `posts` are decided for `lookup_reader`.
pub(crate) const CASES: &[(&str, &str, Decided)] = &[
    (
        "a join with USING next to other tables joins its own two sides",
        "CREATE POLICY p ON posts USING (EXISTS (SELECT FROM rooms r, members m JOIN profiles f USING (team) \
         WHERE r.id = posts.room AND m.person = auth.uid()))",
        Decided::InProcess,
    ),
    (
        "permissive policies count from the last name to the first",
        "CREATE POLICY a ON posts USING (open); CREATE POLICY b ON posts USING (title::int > 0)",
        Decided::InProcess,
    ),
    (
        "next to USING (true) no other policy raises",
        "CREATE POLICY a ON posts USING (true); CREATE POLICY b ON posts USING (title::int > 0)",
        Decided::InProcess,
    ),
    (
        "next to USING (true) no privilege is missing",
        "REVOKE SELECT ON rooms FROM lookup_reader; CREATE POLICY a ON posts USING (true); \
         CREATE POLICY b ON posts USING (room IN (SELECT id FROM rooms))",
        Decided::InProcess,
    ),
    (
        "a missing privilege is an error for every row",
        "REVOKE SELECT ON rooms FROM lookup_reader; CREATE POLICY a ON posts USING (open); \
         CREATE POLICY b ON posts USING (room IN (SELECT id FROM rooms))",
        Decided::Raises,
    ),
    (
        "a missing privilege counts only where literals leave the look-up",
        "REVOKE SELECT ON rooms FROM lookup_reader; CREATE POLICY a ON posts USING (open OR (false AND EXISTS (SELECT FROM rooms)))",
        Decided::Left,
    ),
    (
        "a missing privilege does not count next to an IMMUTABLE function that decides",
        "REVOKE SELECT ON rooms FROM lookup_reader; \
         CREATE FUNCTION f(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 = 1; END'; \
         CREATE POLICY a ON posts USING (f(1) OR room IN (SELECT id FROM rooms))",
        Decided::Left,
    ),
    (
        "restrictive policies without a permissive one are not even looked at",
        "ALTER TABLE rooms ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY a ON rooms AS RESTRICTIVE USING (id IN (SELECT id FROM rooms)); \
         CREATE POLICY a ON posts USING (room IN (SELECT id FROM rooms) OR open)",
        Decided::InProcess,
    ),
    (
        "a policy that reads its own table raises",
        "CREATE POLICY a ON posts USING (open OR EXISTS (SELECT FROM posts p WHERE p.open))",
        Decided::Raises,
    ),
    (
        "policies that read each other raise",
        "ALTER TABLE rooms ENABLE ROW LEVEL SECURITY; CREATE POLICY a ON rooms USING (id IN (SELECT room FROM posts)); \
         CREATE POLICY a ON posts USING (room IN (SELECT id FROM rooms))",
        Decided::Raises,
    ),
    (
        "functions that come back to the policy that calls them end",
        "CREATE FUNCTION f(int) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM posts WHERE room = $1)'; \
         CREATE POLICY a ON posts USING (open OR f(room) AND f(id))",
        Decided::Left,
    ),
    (
        "a sub-select as a value raises where it has several rows",
        "CREATE POLICY a ON posts USING ((SELECT r.open FROM rooms r WHERE r.id >= posts.room) OR open)",
        Decided::InProcess,
    ),
    (
        "a sub-select as a value in another may raise, unless it looks for a primary key",
        "CREATE POLICY a ON posts USING (EXISTS (SELECT FROM members m WHERE m.room = posts.room \
         AND (SELECT r.open FROM rooms r WHERE r.team = m.team)))",
        Decided::Left,
    ),
    (
        "a sub-select as a value in another looks for a primary key",
        "CREATE POLICY a ON posts USING (EXISTS (SELECT FROM members m WHERE m.room = posts.room \
         AND (SELECT p.role FROM profiles p WHERE p.id = m.person) = 'admin'))",
        Decided::InProcess,
    ),
    (
        "a function takes the first of several rows",
        "CREATE FUNCTION f(int) RETURNS int STABLE SECURITY DEFINER LANGUAGE sql AS \
         'SELECT team FROM public.members WHERE room = $1'; CREATE POLICY a ON posts USING (f(room) = 1 OR open)",
        Decided::InProcess,
    ),
    (
        "an argument raises although the function has no use for it",
        "CREATE FUNCTION f(uuid) RETURNS boolean STABLE SECURITY DEFINER LANGUAGE sql AS 'SELECT true'; \
         CREATE POLICY a ON posts USING (f(auth.uid()))",
        Decided::InProcess,
    ),
    (
        "a literal argument raises although the function has no use for it",
        "CREATE FUNCTION f(uuid) RETURNS boolean STABLE SECURITY DEFINER LANGUAGE sql AS 'SELECT true'; \
         CREATE POLICY a ON posts USING (f(('3'::text)::uuid))",
        Decided::Left,
    ),
    (
        "what literals decide in a function that is called decides nothing around it",
        "CREATE FUNCTION f() RETURNS boolean STABLE SECURITY DEFINER LANGUAGE sql AS 'SELECT true'; \
         CREATE POLICY a ON posts USING (title::int > 0 OR f())",
        Decided::InProcess,
    ),
    (
        "what literals decide in a function that is put in place of its call decides around it, too",
        "CREATE FUNCTION f(text) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT 1 < 2'; \
         CREATE POLICY a ON posts USING (title::int > 0 OR f(auth.jwt() ->> 'word'))",
        Decided::InProcess,
    ),
    (
        "NOT IN a set with NULL in it holds for nobody",
        "CREATE POLICY a ON posts USING (room NOT IN (SELECT team FROM members))",
        Decided::InProcess,
    ),
    (
        "NULL is not among no rows, and among some rows it is not known",
        "CREATE POLICY a ON posts USING ((room NOT IN (SELECT id FROM rooms WHERE owner = auth.uid())) IS NOT NULL)",
        Decided::InProcess,
    ),
    (
        "EXISTS of a count holds always",
        "CREATE POLICY a ON posts USING (EXISTS (SELECT count(*) FROM rooms WHERE id = posts.room))",
        Decided::Left,
    ),
    (
        "a function that orders by a column needs the privilege to read it",
        "REVOKE SELECT ON rooms FROM lookup_reader; GRANT SELECT (k, id) ON rooms TO lookup_reader; \
         CREATE FUNCTION f(int) RETURNS boolean STABLE LANGUAGE sql AS \
         'SELECT EXISTS (SELECT 1 FROM public.rooms WHERE id = $1 ORDER BY owner)'; \
         CREATE POLICY a ON posts USING (open OR f(room))",
        Decided::Left,
    ),
    (
        "the schema of one's own name comes first where the search path says so",
        "CREATE SCHEMA lookup_reader AUTHORIZATION lookup_reader; CREATE TABLE lookup_reader.rooms (LIKE public.rooms); \
         GRANT SELECT ON lookup_reader.rooms TO lookup_reader; \
         CREATE FUNCTION f(int) RETURNS boolean STABLE LANGUAGE sql SET search_path = \"$user\", public AS \
         'SELECT EXISTS (SELECT FROM rooms WHERE id = $1)'; CREATE POLICY a ON posts USING (f(room))",
        Decided::Left,
    ),
    (
        "a schema that the role may not use is passed over in the search path",
        "CREATE FUNCTION side.g(int) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT true'; \
         CREATE FUNCTION g(int) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT $1 = 1'; \
         CREATE FUNCTION f(int) RETURNS boolean STABLE LANGUAGE sql SET search_path = side, public AS 'SELECT g($1)'; \
         REVOKE USAGE ON SCHEMA side FROM PUBLIC; CREATE POLICY a ON posts USING (f(room))",
        Decided::InProcess,
    ),
    (
        "of functions in several schemas of the search path PostgreSQL takes the one that fits best",
        "CREATE FUNCTION side.g(bigint) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT true'; \
         CREATE FUNCTION g(int) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT $1 = 1'; \
         CREATE FUNCTION f(int) RETURNS boolean STABLE LANGUAGE sql SET search_path = side, public AS 'SELECT g($1)'; \
         CREATE POLICY a ON posts USING (f(room))",
        Decided::Left,
    ),
    (
        "of several forms of a function the one with default values may fit better",
        "CREATE FUNCTION g(bigint) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT true'; \
         CREATE FUNCTION g(int, int DEFAULT 1) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT $1 = $2'; \
         CREATE POLICY a ON posts USING (g(room))",
        Decided::Left,
    ),
    (
        "a constant of a SECURITY DEFINER function is not computed as the subscriber's role",
        "CREATE FUNCTION f() RETURNS text STABLE SECURITY DEFINER LANGUAGE sql AS 'SELECT md5(current_user)'; \
         ALTER FUNCTION f() OWNER TO lookup_definer; \
         CREATE POLICY a ON posts USING (f() = md5('lookup_reader'))",
        Decided::Left,
    ),
    (
        "a constant of a function is computed with the function's search path",
        "CREATE FUNCTION side.g(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END'; \
         CREATE FUNCTION g(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN false; END'; \
         CREATE FUNCTION f() RETURNS boolean STABLE LANGUAGE sql SET search_path = side AS 'SELECT g(''a'')'; \
         CREATE POLICY a ON posts USING (f())",
        Decided::Left,
    ),
    (
        "a function that is declared IMMUTABLE and is not is no constant",
        "CREATE FUNCTION f() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS \
         'BEGIN RETURN EXISTS (SELECT FROM public.members WHERE person = auth.uid()); END'; \
         CREATE POLICY a ON posts USING (f())",
        Decided::Left,
    ),
    (
        "a set may be of another type than its rows",
        "CREATE FUNCTION f() RETURNS SETOF text STABLE LANGUAGE sql AS 'SELECT ''1.0''::varchar FROM public.rooms'; \
         CREATE FUNCTION g() RETURNS SETOF numeric STABLE LANGUAGE sql AS 'SELECT id FROM public.rooms'; \
         CREATE POLICY a ON posts USING (title IN (SELECT f()) OR room IN (SELECT g()))",
        Decided::Left,
    ),
    (
        "the names in ON see the tables of their join only",
        "CREATE FUNCTION f(owner uuid) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.rooms, \
         public.members m JOIN public.profiles p ON m.person = owner WHERE rooms.id = m.room)'; \
         CREATE POLICY a ON posts USING (f(author))",
        Decided::Left,
    ),
];
