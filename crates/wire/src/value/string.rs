//! JSON strings.

/// Appends `text` as a JSON string, quotes included (RFC 8259 §7).
pub fn encode_string(text: &str, out: &mut Vec<u8>) {
    const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..index]);
        written = index + 1;
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\x08' => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            b'\x0c' => b'f',
            b'\r' => b'r',
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(HEXADECIMAL[usize::from(control >> 4)]);
                out.push(HEXADECIMAL[usize::from(control & 0x0f)]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}
