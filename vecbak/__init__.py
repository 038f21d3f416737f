"""vecbak: back up, prove, truncate and restore the vector tables of PostgreSQL + pgvector."""

__version__ = "0.1.0"
