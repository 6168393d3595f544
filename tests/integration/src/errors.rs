//! Assertions about errors of the server, their SQLSTATE first, then their words; and about the words of whatever
//! else it says.

use std::fmt::Debug;

use postgres::error::{DbError, Error};

/// Asserts that `result` is an error of the server with `sqlstate`, whose message, detail or hint contains
/// `part` (whatever the case of its letters), and returns it for a closer look.
#[track_caller]
pub fn assert_error<T: Debug>(result: Result<T, Error>, sqlstate: &str, part: &str) -> DbError {
    let error = match result {
        Ok(value) => panic!("expected SQLSTATE {sqlstate} ({part:?}), but it succeeded: {value:?}"),
        Err(error) => error,
    };
    let Some(db_error) = error.as_db_error() else {
        panic!("expected SQLSTATE {sqlstate} ({part:?}), but the connection failed: {error:?}");
    };
    let words = words(db_error);
    assert_eq!(
        db_error.code().code(),
        sqlstate,
        "expected {part:?}, got: {words}"
    );
    assert!(
        words.to_lowercase().contains(&part.to_lowercase()),
        "{part:?} is not in: {words}"
    );
    assert_well_put(db_error);
    db_error.clone()
}

/// Message, detail and hint in one string.
pub fn words(error: &DbError) -> String {
    [Some(error.message()), error.detail(), error.hint()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" | ")
}

/// PostgreSQL's rules for the form of messages, whatever their severity: a message starts in lower case and has no full
/// stop, details and hints are sentences (manual, "Error Message Style Guide").
#[track_caller]
pub(crate) fn assert_well_put(error: &DbError) {
    let message = error.message();
    assert!(!message.ends_with('.'), "a full stop after: {message}");
    // A name or an acronym may come first: only a capital followed by a small letter is a capitalized word.
    let mut letters = message.chars();
    let capitalized = letters.next().is_some_and(char::is_uppercase)
        && letters.next().is_some_and(char::is_lowercase);
    assert!(!capitalized, "starts with a capital: {message}");
    for sentence in [error.detail(), error.hint()].into_iter().flatten() {
        // A statement at the end is to be executed as it stands there, without a full stop.
        assert!(
            sentence.ends_with(['.', '!', '?']) || sentence.ends_with(");"),
            "not a sentence: {sentence}"
        );
        // A name that is written small may come first.
        let small = sentence.starts_with(char::is_lowercase) && !sentence.starts_with("libmagic");
        assert!(!small, "starts in lower case: {sentence}");
    }
}
