//! Writes JSON straight into a byte vector: no intermediate tree, no failure to handle.

use std::fmt::{self, Display, Write};

/// The members of one JSON object that is being written, braces included.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object.
    pub(crate) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Ends the object.
    pub(crate) fn close(self) {
        self.out.push(b'}');
    }

    /// Separates the next member from the one before it, and hands out where to write it.
    pub(crate) fn member(&mut self) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out
    }

    /// Writes a key, which must need no escape, and hands out where to write the value.
    pub(crate) fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        let out = self.member();
        out.push(b'"');
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\":");
        out
    }

    /// A member that is itself an object, with the members that `write` gives it.
    pub(crate) fn object(&mut self, key: &'static str, write: impl FnOnce(&mut Object<'_>)) {
        let mut inner = Object::open(self.key(key));
        write(&mut inner);
        inner.close();
    }

    /// A string member.
    pub(crate) fn text(&mut self, key: &'static str, text: &str) {
        string(self.key(key), text);
    }

    /// A string member, left out when there is none.
    pub(crate) fn text_if(&mut self, key: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    /// A number member.
    pub(crate) fn number(&mut self, key: &'static str, number: impl Display) {
        plain(self.key(key), number);
    }

    /// A number member, left out when there is none.
    pub(crate) fn number_if(&mut self, key: &'static str, number: Option<impl Display>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    /// A list member, left out when it is empty.
    pub(crate) fn list_if<T>(
        &mut self,
        key: &'static str,
        items: &[T],
        write: impl Fn(&mut Vec<u8>, &T),
    ) {
        if !items.is_empty() {
            list(self.key(key), items, write);
        }
    }
}

/// A JSON array of `items`.
pub(crate) fn list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// A JSON string, escaped as RFC 8259 asks and no further.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    let special = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\');
    while let Some(at) = rest.iter().position(special) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => plain(out, format_args!("\\u{control:04x}")),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// The text form of `value`, with no quotes and no escapes.
pub(crate) fn plain(out: &mut Vec<u8>, value: impl Display) {
    struct Sink<'a>(&'a mut Vec<u8>);

    impl Write for Sink<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }

    // Neither the sink nor any of our values can fail.
    let _ = write!(Sink(out), "{value}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_read_back_as_they_were(text in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn every_control_character_is_escaped() {
        for control in '\0'..' ' {
            let mut out = Vec::new();
            string(&mut out, &format!("a{control}\"\\é"));
            assert!(!out.iter().any(|byte| *byte < 0x20));
            let back: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(back, format!("a{control}\"\\é"));
        }
    }
}
