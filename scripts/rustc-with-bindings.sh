#!/bin/sh
# rustc, as cargo calls it (RUSTC_WRAPPER) to check the extension for a release of PostgreSQL that isn't installed:
# pgrx-pg-sys then takes the bindings that come with it, as it does where its documentation is made. With DOCS_RS=1,
# its build script doesn't look for a server.
case " $* " in
    *" --crate-name pgrx_pg_sys "*) exec "$@" --cfg docsrs ;;
esac
exec "$@"
