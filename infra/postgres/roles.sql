-- Who may do what in moonlark's database. As a superuser, connected to it; again whenever wanted:
--     psql --dbname=moonlark --set ON_ERROR_STOP=1 -f infra/postgres/roles.sql
--
--   moonlark_owner   owns the tables: `moonlark init`. Nothing that serves has its password.
--   moonlark_writer  reads and writes rows: replicas, the night, the command line.
--   moonlark_oncall  the writer's rights, and the rest of the server's sessions: who holds a lock, and
--                    ends it (not a superuser's). The on-call's shell.
--   moonlark_reader  dashboards: what exists, what is live and how it did. No user, no key.
--   airflow          a database of its own.
--
-- Nobody logs in before passwords.sql. Postgres 17 lets the writer VACUUM (GRANT MAINTAIN); on 16
-- `moonlark erase --finish` needs moonlark_owner.
\set ON_ERROR_STOP on

SELECT format('CREATE ROLE %I NOLOGIN', name)
FROM unnest(ARRAY['moonlark_owner', 'moonlark_writer', 'moonlark_oncall', 'moonlark_reader',
                  'airflow']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

SELECT 'CREATE DATABASE airflow OWNER airflow'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'airflow')
\gexec
REVOKE ALL ON DATABASE airflow FROM PUBLIC;

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database())
\gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO moonlark_owner, moonlark_writer, moonlark_reader',
              current_database())
\gexec
GRANT moonlark_writer, pg_read_all_stats, pg_signal_backend TO moonlark_oncall;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO moonlark_owner;
GRANT USAGE ON SCHEMA public TO moonlark_writer, moonlark_reader;

-- What a migration makes later is the writer's to use at once, and the reader's never by itself.
ALTER DEFAULT PRIVILEGES FOR ROLE moonlark_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO moonlark_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE moonlark_owner IN SCHEMA public
    GRANT USAGE, SELECT ON SEQUENCES TO moonlark_writer;
SELECT 'ALTER DEFAULT PRIVILEGES FOR ROLE moonlark_owner IN SCHEMA public '
       'GRANT MAINTAIN ON TABLES TO moonlark_writer'
WHERE current_setting('server_version_num')::int >= 170000
\gexec

-- The tables that are there: taken over by the owner, then granted alike.
SELECT format('ALTER TABLE public.%I OWNER TO moonlark_owner', tablename)
FROM pg_tables WHERE schemaname = 'public' AND tableowner <> 'moonlark_owner'
\gexec
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO moonlark_writer;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO moonlark_writer;
SELECT 'GRANT MAINTAIN ON ALL TABLES IN SCHEMA public TO moonlark_writer'
WHERE current_setting('server_version_num')::int >= 170000
\gexec

-- The schema's revision is read by whoever starts, and written by migrations alone. Again after the
-- first `moonlark init`, which makes the table.
SELECT 'REVOKE INSERT, UPDATE, DELETE ON public.alembic_version FROM moonlark_writer'
WHERE to_regclass('public.alembic_version') IS NOT NULL
\gexec

SELECT format('GRANT SELECT ON public.%I TO moonlark_reader', name)
FROM unnest(ARRAY['generations', 'artifacts', 'live', 'replicas', 'items', 'catalog_head',
                  'item_activity', 'policies']) AS name
WHERE to_regclass('public.' || name) IS NOT NULL
\gexec
