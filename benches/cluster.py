"""The private cluster: sessions, databases copied from templates, settings for a while.

A template database is made once (data.py) and never changed; what a contestant gets is a copy of
it, which starts with the same pages in the same places each time.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import time

import psycopg2

HERE = os.path.dirname(os.path.realpath(__file__))
REPOSITORY = os.path.dirname(HERE)
DATABASE = "bench"


class Cluster:
    def __init__(self, folder, bindir):
        with open(os.path.join(folder, "port"), encoding="ascii") as file:
            self.port = int(file.read())
        self.folder, self.bindir = folder, bindir

    def dsn(self, database=DATABASE):
        return f"host={self.folder}/run port={self.port} user=postgres dbname={database}"

    def connect(self, database=DATABASE):
        connection = psycopg2.connect(self.dsn(database))
        connection.autocommit = True
        return connection

    def query(self, *statements, database=DATABASE, values=None):
        """Runs the statements one by one in a session of their own; the rows of the last."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def value(self, statement, database=DATABASE, values=None):
        return self.query(statement, database=database, values=values)[0][0]

    def program(self, name):
        return os.path.join(self.bindir, name)

    def psql(self, database, *arguments, **variables):
        """For scripts with \\gexec or COPY, which psycopg2 doesn't know."""
        settings = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
        subprocess.run(
            [self.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *settings,
             "-d", self.dsn(database), *arguments],
            check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "PGOPTIONS": "-c jit=off -c client_min_messages=warning"})

    def fsync(self, state):
        subprocess.run([os.path.join(REPOSITORY, "scripts", "cluster.sh"), "fsync", self.folder,
                        state], check=True)

    @contextlib.contextmanager
    def without_fsync(self):
        """Waiting for ten thousand small files to reach the disk is most of the time of making them.
        At the end all of it is on the disk."""
        self.fsync("off")
        yield
        self.fsync("on")

    @contextlib.contextmanager
    def settings(self, **values):
        """Settings of the whole server for a while, such as those of autovacuum."""
        def apply(statement):
            for name in values:
                self.query(statement(name), database="postgres")
            self.query("SELECT pg_reload_conf()", database="postgres")
            time.sleep(0.3)  # until every process has seen it

        apply(lambda name: f"ALTER SYSTEM SET {name} = '{values[name]}'")
        try:
            yield
        finally:
            apply(lambda name: f"ALTER SYSTEM RESET {name}")

    def drop(self, database):
        self.query(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)', database="postgres")

    def description(self, database):
        """The description of a database, in its comment, which is written when it is complete; None
        if it isn't there, or was left half made."""
        rows = self.query("SELECT shobj_description(oid, 'pg_database') FROM pg_database "
                          "WHERE datname = %s", database="postgres", values=(database,))
        return json.loads(rows[0][0]) if rows and rows[0][0] else None

    def set_description(self, database, description):
        self.query(f"COMMENT ON DATABASE \"{database}\" IS %s", database="postgres",
                   values=(json.dumps(description),))

    def copy(self, template, root):
        """A fresh copy of a template, with the extension in it and everything on the disk. The
        server's own buffers know nothing of it yet, the system's page cache has all of it."""
        with self.without_fsync():
            self.drop(DATABASE)
            self.query(f'CREATE DATABASE {DATABASE} TEMPLATE "{template}" STRATEGY file_copy',
                       f"ALTER DATABASE {DATABASE} SET ntt_mime.blob_root = '{root}'",
                       database="postgres")
            self.query("CREATE EXTENSION ntt_mime")

    def library(self):
        """A name for the detector that is installed: another build may answer differently."""
        folder = subprocess.run([self.program("pg_config"), "--pkglibdir"], check=True, text=True,
                                stdout=subprocess.PIPE).stdout.strip()
        with open(os.path.join(folder, "ntt_mime.so"), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:12]

    def describe(self):
        server, fsync, buffers = self.query(
            "SELECT current_setting('server_version'), current_setting('fsync'), "
            "current_setting('shared_buffers')", database="postgres")[0]
        return f"PostgreSQL {server.split()[0]} (fsync {fsync}, shared_buffers {buffers})"
