//! Tests of the functions, each in a transaction that is rolled back. What commits, waits, or takes
//! more than one session is tested in tests/integration.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use pgrx::prelude::*;

    /// A store of one blob, which the server can read; removed when dropped.
    struct Store(PathBuf);

    impl Store {
        fn with(blobid: &str, content: &[u8]) -> Store {
            let root = std::env::temp_dir().join(format!("ntt_mime_{}", std::process::id()));
            let directory = root.join(&blobid[..2]).join(&blobid[2..4]);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(blobid), content).unwrap();
            std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
            let root_text = root.to_str().unwrap();
            Spi::run(&format!("SET LOCAL ntt_mime.blob_root = '{root_text}'")).unwrap();
            Store(root)
        }
    }

    impl Drop for Store {
        fn drop(&mut self) {
            // A test that fails may leave it to the system's cleaning of temporary files.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn text(sql: &str) -> Option<String> {
        Spi::get_one::<String>(sql).unwrap()
    }

    /// The SQLSTATE that a statement raises, or "00000".
    fn sqlstate(sql: &str) -> String {
        let quoted = pgrx::spi::quote_literal(sql);
        text(&format!("SELECT tests.sqlstate_of({quoted})")).unwrap()
    }

    #[pg_extern(sql = "
    CREATE FUNCTION tests.sqlstate_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE statement;
        RETURN '00000';
    EXCEPTION WHEN OTHERS THEN
        RETURN SQLSTATE;
    END
    $$;
    ")]
    fn sqlstate_of() {}

    #[pg_test]
    fn a_blob_and_its_content_have_the_same_type() {
        let blobid = "ab".repeat(32);
        let _store = Store::with(&blobid, b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n");
        let of_blob = text(&format!("SELECT ntt_detect_mime('{blobid}')"));
        let of_content = text("SELECT ntt_detect_mime('%PDF-1.7\n'::bytea)");
        assert_eq!(of_blob.as_deref(), Some("application/pdf"));
        assert_eq!(of_content, of_blob);
    }

    #[pg_test]
    fn an_unknown_literal_is_a_blobid() {
        assert_eq!(sqlstate("SELECT ntt_detect_mime('abc')"), "22023");
        assert_eq!(
            text("SELECT ntt_detect_mime(''::bytea)").as_deref(),
            Some("application/x-empty")
        );
        assert_eq!(text("SELECT ntt_detect_mime(NULL::text)"), None);
    }

    #[pg_test]
    fn a_missing_blob_has_no_type() {
        let _store = Store::with(&"ab".repeat(32), b"x");
        let other = "cd".repeat(32);
        assert_eq!(text(&format!("SELECT ntt_detect_mime('{other}')")), None);
        let inspected = text(&format!("SELECT status FROM ntt_inspect_blob('{other}')"));
        assert_eq!(inspected.as_deref(), Some("missing"));
    }

    #[pg_test]
    fn an_inspection_never_raises() {
        for bad in ["", "x", "..", "AB", "\u{1}"] {
            let quoted = pgrx::spi::quote_literal(bad);
            let status = text(&format!("SELECT status FROM ntt_inspect_blob({quoted})"));
            assert_eq!(status.as_deref(), Some("invalid"), "{bad:?}");
        }
        Spi::run("SET LOCAL ntt_mime.blob_root = ''").unwrap();
        let id = "ab".repeat(32);
        let status = text(&format!("SELECT status FROM ntt_inspect_blob('{id}')"));
        assert_eq!(status.as_deref(), Some("unreadable"));
    }

    #[pg_test]
    fn the_version_names_the_detector() {
        let libmagic = text("SELECT libmagic FROM ntt_mime_version()").unwrap();
        assert_eq!(libmagic, ntt_mime_core::detector::libmagic_release());
        let extension = text("SELECT extension FROM ntt_mime_version()");
        let installed = text("SELECT extversion FROM pg_extension WHERE extname = 'ntt_mime'");
        assert_eq!(extension, installed);
    }

    #[pg_test]
    fn a_backfill_needs_its_own_transactions() {
        assert_eq!(sqlstate("CALL ntt_backfill_mime()"), "2D000");
    }

    #[pg_test]
    fn settings_have_the_defaults_that_are_documented() {
        let setting = |name: &str| text(&format!("SHOW ntt_mime.{name}")).unwrap();
        assert_eq!(setting("head_bytes"), "16kB");
        assert_eq!(setting("read_ahead"), "16");
        assert_eq!(setting("cache_size"), "64MB");
        assert_eq!(setting("lock_timeout"), "1s");
        assert_eq!(setting("retry_failures_after"), "1d");
        assert_eq!(setting("run_history"), "90d");
        assert_eq!(setting("batch_delay"), "0");
        let cpus = std::thread::available_parallelism().unwrap().get().min(8);
        assert_eq!(setting("workers"), cpus.to_string());
    }
}
