//! JSON strings.

/// Appends `text` as a JSON string, quotes included (RFC 8259 §7).
pub fn encode_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (clean, tail) = rest.split_at(clean_length(rest));
        out.extend_from_slice(clean);
        let Some((&special, behind)) = tail.split_first() else {
            break;
        };
        escape(special, out);
        rest = behind;
    }
    out.push(b'"');
}

fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// How many bytes at the start go out as they are.
fn clean_length(bytes: &[u8]) -> usize {
    // Sixteen at a time without a branch on each becomes vector instructions.
    const CHUNK: usize = 16;
    let clean_chunks = bytes
        .chunks_exact(CHUNK)
        .take_while(|chunk| !chunk.iter().fold(false, |found, &byte| found | is_special(byte)))
        .count();
    let start = clean_chunks * CHUNK;
    let rest = &bytes[start..];
    start + rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len())
}

fn escape(special: u8, out: &mut Vec<u8>) {
    const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";
    let letter = match special {
        b'\x08' => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        b'\x0c' => b'f',
        b'\r' => b'r',
        0..b' ' => {
            out.extend_from_slice(b"\\u00");
            out.push(HEXADECIMAL[usize::from(special >> 4)]);
            out.push(HEXADECIMAL[usize::from(special & 0x0f)]);
            return;
        }
        other => other,
    };
    out.extend_from_slice(&[b'\\', letter]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_control_character_quote_and_backslash_is_escaped() {
        let text: String = (0..0x20u8).chain(*b"\"\\/\x7f").map(char::from).collect();
        let mut out = Vec::new();
        encode_string(&text, &mut out);
        let expected = concat!(
            r#""\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f"#,
            r"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f",
            r#"\"\\/"#,
            "\x7f\""
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_text_comes_back_from_its_json(text in any::<String>()) {
            let mut out = Vec::new();
            encode_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
