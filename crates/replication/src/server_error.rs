//! What PostgreSQL says when it refuses (PostgreSQL docs, "Error and Notice Message Fields").

use std::fmt;

use bytes::Bytes;

/// An `ErrorResponse`, with the fields we act on or show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// The SQLSTATE, five characters (PostgreSQL docs, "PostgreSQL Error Codes").
    pub code: String,
    /// The primary message, in the server's language.
    pub message: String,
    /// More of it, where the server has more to say.
    pub detail: Option<String>,
    /// The server's own advice.
    pub hint: Option<String>,
    /// The function in the server's source that refused. It tells apart refusals that share one SQLSTATE, and is
    /// not translated as the message is.
    pub routine: Option<String>,
}

impl ServerError {
    /// Reads the body of an `ErrorResponse` or `NoticeResponse`: fields of one type byte and a zero-terminated text,
    /// closed by a zero byte. Text that is not UTF-8 (before log-in it is in the server's encoding) is read lossily.
    pub(crate) fn parse(body: &Bytes) -> Self {
        let mut error = ServerError::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else {
                break;
            };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'R' => error.routine = Some(text),
                _ => {}
            }
        }
        error
    }

    pub(crate) fn came_from(&self, routine: &str) -> bool {
        self.routine.as_deref() == Some(routine)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (SQLSTATE {})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(out, "; {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(out, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_error_response_are_told_apart() {
        let body =
            Bytes::from_static(b"SFATAL\0VFATAL\0C28P01\0Mno \xff way\0Hask\0RClientAuthentication\0\0");
        let error = ServerError::parse(&body);
        assert_eq!(error.code, "28P01");
        assert_eq!(error.to_string(), "no \u{fffd} way (SQLSTATE 28P01); ask");
        assert!(error.came_from("ClientAuthentication"));
    }

    #[test]
    fn a_damaged_error_response_is_still_an_error() {
        assert_eq!(ServerError::parse(&Bytes::from_static(b"")), ServerError::default());
        assert_eq!(ServerError::parse(&Bytes::from_static(b"Mcut")).message, "cut");
    }
}
