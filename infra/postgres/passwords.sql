-- The login roles' passwords, each from a file; after roles.sql, as a superuser. psql reads the
-- files itself, so that no password is in a list of processes or in this text:
--     psql --dbname=moonlark -v secrets=/run/secrets -f infra/postgres/passwords.sql
\if :{?secrets}
\else
    \set secrets /run/secrets
\endif
\setenv SECRETS :secrets
\set owner_password `cat "$SECRETS/pg_owner"`
\set writer_password `cat "$SECRETS/pg_writer"`
\set oncall_password `cat "$SECRETS/pg_oncall"`
\set reader_password `cat "$SECRETS/pg_reader"`
\set airflow_password `cat "$SECRETS/pg_airflow"`
-- Not into the server's log.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
ALTER ROLE moonlark_owner LOGIN PASSWORD :'owner_password';
ALTER ROLE moonlark_writer LOGIN PASSWORD :'writer_password';
ALTER ROLE moonlark_oncall LOGIN PASSWORD :'oncall_password';
ALTER ROLE moonlark_reader LOGIN PASSWORD :'reader_password';
ALTER ROLE airflow LOGIN PASSWORD :'airflow_password';
