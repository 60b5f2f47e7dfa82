-- The roles that tokens name, as Supabase has them. Roles belong to the whole cluster: another database may make them
-- at the same moment, which is not an error.
do $$
declare
  wanted name;
begin
  foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
    if exists (select from pg_roles where rolname = wanted) then
      continue;
    end if;
    begin
      execute format('create role %I nologin noinherit', wanted);
      if wanted = 'service_role' then
        execute format('alter role %I bypassrls', wanted);
      end if;
    exception
      when duplicate_object or unique_violation then
        null;
      when insufficient_privilege then
        raise exception 'the role % can not be created by %', wanted, current_user
          using hint = 'Let a superuser create the roles anon, authenticated and service_role (bypassrls), then run this again.';
    end;
  end loop;
end
$$;

-- Whoever serves tokens must be able to act as these roles; a superuser is anyway.
do $$
declare
  wanted name;
begin
  foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
    if not pg_has_role(current_user, wanted, 'member') then
      execute format('grant %I to %I', wanted, current_user);
    end if;
  end loop;
end
$$;
