-- auth.jwt(), auth.uid(), auth.role(): who is asking, read from the settings that hold the claims of the request.
-- Their results are those of Supabase, where they exist already and stay as they are.
create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role;

do $do$
begin
  if to_regprocedure('auth.jwt()') is null then
    create function auth.jwt() returns jsonb language sql stable as $$
      select coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
      )::jsonb
    $$;
    comment on function auth.jwt() is 'All claims of the token; null without a token.';
  end if;

  if to_regprocedure('auth.uid()') is null then
    create function auth.uid() returns uuid language sql stable as $$
      select coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
      )::uuid
    $$;
    comment on function auth.uid() is 'The claim sub: the user; null without a token.';
  end if;

  if to_regprocedure('auth.role()') is null then
    create function auth.role() returns text language sql stable as $$
      select coalesce(
        nullif(current_setting('request.jwt.claim.role', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
      )
    $$;
    comment on function auth.role() is 'The claim role; null without a token.';
  end if;
end
$do$;
