//! The bearer token: read from a file, read again when the file changes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use subtle::ConstantTimeEq;

use crate::http::stamp::Stamp;

/// The longest token file. Tokens of Kubernetes have about 1 KiB.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Why a token file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It can't be read.
    #[error("read token file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It holds nothing but line ends.
    #[error("token file {0} is empty; put the token into it")]
    Empty(PathBuf),
    /// It is larger than any token.
    #[error("token file {0} is larger than 64 KiB; it must hold the token and nothing else")]
    TooLarge(PathBuf),
}

/// The token that requests must carry.
///
/// A change of the file takes effect with the next request. A file that becomes unreadable or
/// empty does not: the last good token stays in force and the log says so, once for each change.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    // Never held across an await.
    known: Mutex<Known>,
}

struct Known {
    stamp: Option<Stamp>,
    token: Box<[u8]>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known")
            .field("stamp", &self.stamp)
            .finish_non_exhaustive()
    }
}

impl TokenFile {
    /// Reads the token for the first time.
    pub fn load(path: PathBuf) -> Result<Self, TokenError> {
        let stamp = Stamp::of(&path);
        let token = read_token(&path)?;
        Ok(Self {
            path,
            known: Mutex::new(Known { stamp, token }),
        })
    }

    /// Whether a request with this `Authorization` header may pass.
    pub fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some(given) = authorization.and_then(bearer) else {
            return false;
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path);
        if stamp != known.stamp {
            known.stamp = stamp;
            match read_token(&self.path) {
                Ok(token) => {
                    known.token = token;
                    tracing::info!(path = %self.path.display(), "auth token changed");
                }
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, source, "auth token not read again; the last one stays in force");
                }
            }
        }
        // The time depends on the length of what the client sent, never on the token's bytes.
        known.token.ct_eq(given).into()
    }
}

/// The token of an `Authorization: Bearer TOKEN` header. The scheme's case does not matter.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(6)?;
    let token = rest.strip_prefix(b" ")?.trim_ascii();
    scheme.eq_ignore_ascii_case(b"bearer").then_some(token)
}

fn read_token(path: &Path) -> Result<Box<[u8]>, TokenError> {
    let mut text = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_end(&mut text));
    let bytes = read.map_err(|source| TokenError::Read {
        path: path.to_owned(),
        source,
    })?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > TOKEN_BYTES_MAX) {
        return Err(TokenError::TooLarge(path.to_owned()));
    }
    match text.trim_ascii() {
        [] => Err(TokenError::Empty(path.to_owned())),
        token => Ok(token.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file_with(token: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, token).unwrap();
        (dir, path)
    }

    #[test]
    fn only_the_token_is_admitted() {
        let (_dir, path) = file_with("s3cret\n");
        let file = TokenFile::load(path).unwrap();
        for header in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
            assert!(file.admits(Some(header.as_bytes())), "{header}");
        }
        for header in [
            "",
            "s3cret",
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearer s3cret1",
            "Basic s3cret",
            "Bearers3cret",
            "Bearer\ts3cret",
        ] {
            assert!(!file.admits(Some(header.as_bytes())), "{header}");
        }
        assert!(!file.admits(None));
    }

    #[test]
    fn a_changed_token_takes_effect_at_once() {
        let (dir, path) = file_with("one");
        let file = TokenFile::load(path.clone()).unwrap();
        assert!(file.admits(Some(b"Bearer one")));
        fs::write(dir.path().join("new"), "two\r\n").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(file.admits(Some(b"Bearer two")));
        assert!(!file.admits(Some(b"Bearer one")));
    }

    #[test]
    fn a_file_gone_bad_keeps_the_last_token_in_force() {
        let (_dir, path) = file_with("one");
        let file = TokenFile::load(path.clone()).unwrap();
        for spoil in [
            |path: &Path| fs::write(path, "\n"),
            |path: &Path| fs::remove_file(path),
        ] {
            spoil(&path).unwrap();
            assert!(file.admits(Some(b"Bearer one")));
            assert!(!file.admits(Some(b"Bearer ")));
        }
        fs::write(&path, "three").unwrap();
        assert!(file.admits(Some(b"Bearer three")));
    }

    #[test]
    fn a_bad_file_at_start_is_an_error() {
        let (dir, path) = file_with("\n \n");
        assert!(matches!(TokenFile::load(path), Err(TokenError::Empty(_))));
        let missing = dir.path().join("none");
        assert!(matches!(
            TokenFile::load(missing),
            Err(TokenError::Read { .. })
        ));
        let large = dir.path().join("large");
        fs::write(&large, vec![b'x'; 65_537]).unwrap();
        assert!(matches!(
            TokenFile::load(large),
            Err(TokenError::TooLarge(_))
        ));
    }

    #[test]
    fn the_token_is_not_in_the_debug_text() {
        let (_dir, path) = file_with("s3cret");
        let file = TokenFile::load(path).unwrap();
        assert!(!format!("{file:?}").contains("s3cret"));
    }
}
