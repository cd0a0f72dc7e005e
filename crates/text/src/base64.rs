//! Standard base64 with padding, RFC 4648 §4.

/// Appends the text of some bytes.
pub fn encode(bytes: &[u8], text: &mut String) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for three in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(padded);
        let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift & 63) as usize]));
        text.extend(&digits[..=three.len()]);
        text.extend(std::iter::repeat_n('=', 3 - three.len()));
    }
}

/// Puts the bytes of a text in the place of what was in `bytes`, or says what is wrong with it.
pub(crate) fn decode(text: &[u8], bytes: &mut Vec<u8>) -> Result<(), String> {
    bytes.clear();
    if !text.len().is_multiple_of(4) {
        return Err(format!("base64 of {} characters, not a multiple of four", text.len()));
    }
    let body = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let (mut bits, mut n_bits) = (0_u32, 0);
    for &character in body {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => return Err(format!("{:?} is no character of base64", other as char)),
        };
        bits = (bits << 6 | u32::from(digit)) & 0xFFF;
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
        }
    }
    if bits & ((1 << n_bits) - 1) != 0 {
        return Err("bits are left over at the end of the base64".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 4648 §10, and both digits that are neither letters nor numbers.
    #[test]
    fn it_is_the_standard_one() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"fooba", "Zm9vYmE="),
            (b"foobar", "Zm9vYmFy"),
            (b"\xfb\xff\xbf", "+/+/"),
        ] {
            let (mut encoded, mut decoded) = (String::new(), Vec::new());
            encode(bytes, &mut encoded);
            assert_eq!(encoded, text);
            decode(text.as_bytes(), &mut decoded).unwrap();
            assert_eq!(decoded, bytes);
        }
    }
}
