//! The SQL functions that detect and explain; declared in sql/functions.sql.

use ntt_mime_core::blob_id::BlobId;
use ntt_mime_core::detector;
use ntt_mime_core::failure::{Failure, FailureReason};
use pgrx::prelude::*;

use crate::detect;
use crate::errors::Error;
use crate::pg::encoding::{self, readable};

// Arguments of type text are taken as bytes: pgrx would raise an error for text that isn't UTF-8.

/// The MIME type of a blob in the store.
#[pg_extern(sql = false)]
fn ntt_detect_mime_blob(blobid: &[u8]) -> Option<String> {
    let id = BlobId::parse(&encoding::from_server(blobid)).unwrap_or_else(|error| {
        Error::InvalidBlobId {
            detail: error.to_string(),
        }
        .raise()
    });
    detect::mime_type_of_blob(&id).unwrap_or_else(|error| error.raise())
}

/// The MIME type of some bytes.
#[pg_extern(sql = false)]
fn ntt_detect_mime_content(content: &[u8]) -> String {
    detect::mime_type_of_bytes(content).unwrap_or_else(|error| error.raise())
}

type Inspection = (
    Option<String>,
    String,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<String>,
);

/// Explains the answer of [`ntt_detect_mime_blob`].
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // pgrx reads the columns off the type
fn ntt_inspect_blob(
    blobid: &[u8],
) -> TableIterator<
    'static,
    (
        name!(path, Option<String>),
        name!(status, String),
        name!(mime_type, Option<String>),
        name!(size, Option<i64>),
        name!(bytes_read, Option<i64>),
        name!(detail, Option<String>),
    ),
> {
    let (path, status, mime_type, size, bytes_read, detail) =
        inspect(&encoding::from_server(blobid));
    let (path, detail) = (path.map(readable), detail.map(readable));
    TableIterator::once((path, status, mime_type, size, bytes_read, detail))
}

fn inspect(blobid: &str) -> Inspection {
    let status = |reason: FailureReason| reason.as_str().to_owned();
    let without_a_file = |reason, detail| (None, status(reason), None, None, None, Some(detail));
    let id = match BlobId::parse(blobid).map_err(Failure::from) {
        Ok(id) => id,
        Err(failure) => return without_a_file(failure.reason, failure.detail),
    };
    match detect::look_at(&id) {
        // libmagic itself doesn't work.
        Err(Error::Detector { detail }) => without_a_file(FailureReason::Error, detail),
        Err(error) => error.raise(),
        Ok(look) => {
            let (path, size) = (Some(look.path), look.size.map(|size| size as i64));
            match look.result {
                Ok(found) => {
                    let reads = match found.reads {
                        0 => "empty".to_owned(),
                        1 => "1 look".to_owned(),
                        n => format!("{n} looks, at different places"),
                    };
                    (
                        path,
                        "ok".to_owned(),
                        Some(found.mime_type),
                        size,
                        Some(found.bytes_read as i64),
                        Some(reads),
                    )
                }
                Err(failure) => {
                    let detail = Some(failure.detail);
                    (path, status(failure.reason), None, size, None, detail)
                }
            }
        }
    }
}

/// What does the detecting.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // pgrx reads the columns off the type
fn ntt_mime_version() -> TableIterator<
    'static,
    (
        name!(extension, String),
        name!(libmagic, String),
        name!(magic_database, String),
        name!(magic_entries, Option<i32>),
        name!(prefilter, bool),
        name!(warnings, Vec<String>),
    ),
> {
    let (warnings, prefilter) = detect::complaints().unwrap_or_else(|error| error.raise());
    let database = detector::magic_database();
    TableIterator::once((
        env!("CARGO_PKG_VERSION").to_owned(),
        detector::libmagic_release(),
        database.path,
        database.entries.map(|entries| entries as i32),
        prefilter,
        warnings,
    ))
}
