"""PostgreSQL: connections, programs, SQL and the psql sessions that vecbak drives."""
