//! A reader for stored zip archives, stricter than zip: one meaning a file.
//!
//! The central directory and every local header must agree; members are stored, not compressed or encrypted; no name
//! occurs twice; members, central directory and end records tile the file without gaps, comments or trailing bytes.
//! So nothing can be hidden from whoever reads the other directory. Layout: PKWARE's APPNOTE; what PyTorch's writer
//! does was seen in its files.

use crate::error::shown;

const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: u64 = 22;
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_LEN: u64 = 20;
const END64: &[u8; 4] = b"PK\x06\x06";
const END64_LEN: u64 = 56;
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const CENTRAL_LEN: u64 = 46;
const LOCAL: &[u8; 4] = b"PK\x03\x04";
const DESCRIPTOR: &[u8; 4] = b"PK\x07\x08";
/// General-purpose flags: sizes follow the data; names are UTF-8. No other flag is accepted.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
const FLAG_UTF8: u16 = 1 << 11;
const MAX_MEMBERS: u64 = 1 << 16;

/// What is wrong with a zip file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZipError {
    /// No end record where the file ends.
    #[error("the file does not end with a zip end record: cut short, followed by other bytes, or no zip")]
    NoEnd,
    /// A record lies outside of the file.
    #[error("{what} at byte {at} reaches past byte {end}")]
    Short {
        /// The record.
        what: &'static str,
        /// Where it begins.
        at: u64,
        /// Where it should end at the latest.
        end: u64,
    },
    /// A field has a value that is not accepted.
    #[error("zip {what} at byte {at}: {found}, expected {expected}")]
    Field {
        /// The field.
        what: &'static str,
        /// Where its record begins.
        at: u64,
        /// What the file says.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A member that is not simply stored, or whose two headers differ.
    #[error("zip member `{member}`: {what} is {found}, expected {expected}")]
    Member {
        /// The member.
        member: String,
        /// The property.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A name occurs twice.
    #[error("zip member `{0}` occurs twice")]
    Duplicate(String),
}

/// A member of the archive.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where its data begins, from the beginning of the file.
    pub start: u64,
    /// Bytes of its data.
    pub len: u64,
    /// CRC-32 that the archive states; not compared here, as members may be many gigabytes.
    pub crc: u32,
}

/// A checked archive.
#[derive(Debug)]
pub struct Archive<'a> {
    /// Members, sorted by name.
    pub members: Vec<Member<'a>>,
}

impl<'a> Archive<'a> {
    /// Reads and checks the directory of a whole file.
    ///
    /// # Errors
    /// See [`ZipError`].
    pub fn parse(file: &'a [u8]) -> Result<Archive<'a>, ZipError> {
        let f = File(file);
        let directory = f.end()?;
        let mut at = directory.start;
        let mut members: Vec<Member<'_>> = Vec::with_capacity(directory.n);
        // Sorted by position, each member must begin where the one before it ends; `start` is the header's until then.
        let mut flags_and_headers = Vec::with_capacity(directory.n);
        for _ in 0..directory.n {
            let (member, header, flags, len) = f.central(at, directory.end)?;
            at += len;
            members.push(member);
            flags_and_headers.push((header, flags, members.len() - 1));
        }
        if at != directory.end {
            return Err(field(
                "central directory",
                directory.start,
                format!("{} entries end at {at}", directory.n),
                format!("{}", directory.end),
            ));
        }
        flags_and_headers.sort_unstable();
        let mut expected = 0;
        for &(header, flags, i) in &flags_and_headers {
            let Some(member) = members.get_mut(i) else { continue };
            if header != expected {
                return Err(ZipError::Member {
                    member: shown(member.name),
                    what: "position",
                    found: header.to_string(),
                    expected: format!("{expected}, after the member before it"),
                });
            }
            expected = f.local(member, header, flags, directory.start)?;
        }
        if expected != directory.start {
            return Err(field(
                "central directory",
                directory.start,
                "bytes before it".into(),
                format!("it at {expected}, after the last member"),
            ));
        }
        members.sort_unstable_by_key(|member| member.name);
        if let Some([member, _]) = members.array_windows::<2>().find(|[a, b]| a.name == b.name) {
            return Err(ZipError::Duplicate(shown(member.name)));
        }
        Ok(Archive { members })
    }

    /// The place of a name among the members.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.members.binary_search_by_key(&name, |member| member.name).ok()
    }
}

fn field(what: &'static str, at: u64, found: String, expected: String) -> ZipError {
    ZipError::Field { what, at, found, expected }
}

struct Directory {
    start: u64,
    end: u64,
    n: usize,
}

#[derive(Clone, Copy)]
struct File<'a>(&'a [u8]);

impl<'a> File<'a> {
    fn len(self) -> u64 {
        self.0.len() as u64
    }

    fn get(self, what: &'static str, at: u64, len: u64, end: u64) -> Result<&'a [u8], ZipError> {
        let stop = at.checked_add(len).filter(|&stop| stop <= end);
        let range = stop.and_then(|stop| Some(usize::try_from(at).ok()?..usize::try_from(stop).ok()?));
        range.and_then(|range| self.0.get(range)).ok_or(ZipError::Short { what, at, end })
    }

    /// The end records, which must be the last bytes of the file, with what they say about the central directory.
    fn end(self) -> Result<Directory, ZipError> {
        let end_at = self.len().checked_sub(END_LEN).ok_or(ZipError::NoEnd)?;
        let end = self.get("end record", end_at, END_LEN, self.len())?;
        if !end.starts_with(END) {
            return Err(ZipError::NoEnd);
        }
        let wrong = |what, found: u64, expected: u64| field(what, end_at, found.to_string(), expected.to_string());
        let narrow = [u16_at(end, 8), u16_at(end, 10)].map(u64::from);
        let wide = [u32_at(end, 12), u32_at(end, 16)].map(u64::from);
        if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 {
            return Err(wrong("disk number", 1, 0));
        }
        if u16_at(end, 20) != 0 {
            return Err(wrong("comment length", u64::from(u16_at(end, 20)), 0));
        }

        let locator_at = end_at.checked_sub(LOCATOR_LEN);
        let locator = locator_at.and_then(|at| self.get("zip64 locator", at, LOCATOR_LEN, end_at).ok());
        let (records_at, n, size, start) = match locator.filter(|bytes| bytes.starts_with(LOCATOR)) {
            None => (end_at, narrow, wide[0], wide[1]),
            Some(locator) => {
                let at = u64_at(locator, 8);
                let locator_at = end_at.saturating_sub(LOCATOR_LEN);
                let record = self.get("zip64 end record", at, END64_LEN, locator_at)?;
                if !record.starts_with(END64) || at.checked_add(END64_LEN) != Some(locator_at) {
                    return Err(wrong("zip64 end record", at, locator_at.saturating_sub(END64_LEN)));
                }
                let disks = [u32_at(locator, 4), u32_at(record, 16), u32_at(record, 20)];
                if disks != [0; 3] || u32_at(locator, 16) != 1 {
                    return Err(wrong("number of disks", u64::from(u32_at(locator, 16)), 1));
                }
                if u64_at(record, 4) != END64_LEN - 12 {
                    return Err(wrong("size of zip64 end record", u64_at(record, 4), END64_LEN - 12));
                }
                let n = [u64_at(record, 24), u64_at(record, 32)];
                let (size, start) = (u64_at(record, 40), u64_at(record, 48));
                // The narrow fields say the same, or that they can't.
                for (narrow, wide) in narrow.into_iter().zip(n) {
                    if narrow != wide && narrow != u64::from(u16::MAX) {
                        return Err(wrong("number of members", narrow, wide));
                    }
                }
                for (narrow, wide) in wide.into_iter().zip([size, start]) {
                    if narrow != wide && narrow != u64::from(u32::MAX) {
                        return Err(wrong("central directory", narrow, wide));
                    }
                }
                (at, n, size, start)
            }
        };
        if n[0] != n[1] {
            return Err(wrong("number of members on this disk", n[0], n[1]));
        }
        if start.checked_add(size) != Some(records_at) {
            return Err(field(
                "central directory",
                end_at,
                format!("{size} bytes from {start}"),
                format!("it to end at {records_at}"),
            ));
        }
        let limit = MAX_MEMBERS.min(size / CENTRAL_LEN);
        match usize::try_from(n[0]) {
            Ok(count) if n[0] <= limit => Ok(Directory { start, end: records_at, n: count }),
            _ => Err(field("number of members", end_at, n[0].to_string(), format!("at most {limit}"))),
        }
    }

    /// An entry of the central directory: the member (its `start` still unknown), where its local header is, its
    /// flags, and the length of the entry.
    fn central(self, at: u64, end: u64) -> Result<(Member<'a>, u64, u16, u64), ZipError> {
        let entry = self.get("entry of the central directory", at, CENTRAL_LEN, end)?;
        if !entry.starts_with(CENTRAL) {
            return Err(field("signature", at, format!("{:02x?}", &entry[..4]), format!("{CENTRAL:02x?}")));
        }
        let [name_len, extra_len, comment_len] = [28, 30, 32].map(|i| u64::from(u16_at(entry, i)));
        let name_at = at + CENTRAL_LEN;
        let name = self.get("name of a member", name_at, name_len, end)?;
        let name = std::str::from_utf8(name).map_err(|_| field("name", at, "something else".into(), "UTF-8".into()))?;
        let extra = self.get("extra field", name_at + name_len, extra_len, end)?;
        let wrong = |what, found: String, expected: &str| ZipError::Member {
            member: shown(name),
            what,
            found,
            expected: expected.to_owned(),
        };
        if name.is_empty() {
            return Err(wrong("name", "empty".into(), "something"));
        }
        let flags = u16_at(entry, 8);
        if flags & !(FLAG_DESCRIPTOR | FLAG_UTF8) != 0 {
            return Err(wrong("flags", format!("{flags:#06x}"), "neither encryption nor anything unusual"));
        }
        if u16_at(entry, 10) != 0 {
            return Err(wrong("compression method", u16_at(entry, 10).to_string(), "0, stored"));
        }
        if comment_len != 0 || u16_at(entry, 34) != 0 {
            return Err(wrong("comment or disk", "present".into(), "none"));
        }
        let mut wide = [u32_at(entry, 24), u32_at(entry, 20), u32_at(entry, 42)].map(u64::from);
        let zip64 = zip64_extra(extra).map_err(|what| wrong("extra field", what.into(), "well-formed ones"))?;
        let mut values = zip64.unwrap_or_default().chunks_exact(8);
        for value in wide.iter_mut().filter(|value| **value == u64::from(u32::MAX)) {
            let bytes =
                values.next().ok_or_else(|| wrong("zip64 field", "missing".into(), "a 64-bit size or offset"))?;
            *value = u64_at(bytes, 0);
        }
        let [len, stored, header] = wide;
        if stored != len {
            return Err(wrong("stored size", stored.to_string(), &format!("{len}, the size")));
        }
        let member = Member { name, start: 0, len, crc: u32_at(entry, 16) };
        Ok((member, header, flags, CENTRAL_LEN + name_len + extra_len))
    }

    /// Checks the local header against the central one, sets the member's `start`, and gives the position after the
    /// member.
    fn local(self, member: &mut Member<'a>, at: u64, flags: u16, end: u64) -> Result<u64, ZipError> {
        const LOCAL_LEN: u64 = 30;
        let header = self.get("local header", at, LOCAL_LEN, end)?;
        if !header.starts_with(LOCAL) {
            return Err(field("signature", at, format!("{:02x?}", &header[..4]), format!("{LOCAL:02x?}")));
        }
        let wrong = |what, found: String, expected: String| ZipError::Member {
            member: shown(member.name),
            what,
            found,
            expected,
        };
        let [name_len, extra_len] = [26, 28].map(|i| u64::from(u16_at(header, i)));
        let name = self.get("name of a member", at + LOCAL_LEN, name_len, end)?;
        if name != member.name.as_bytes() {
            let found = shown(&String::from_utf8_lossy(name));
            return Err(wrong("name in the local header", found, "that of the central directory".into()));
        }
        if u16_at(header, 6) != flags || u16_at(header, 8) != 0 {
            return Err(wrong(
                "flags or method",
                "another in the local header".into(),
                "that of the central directory".into(),
            ));
        }
        let extra = self.get("extra field", at + LOCAL_LEN + name_len, extra_len, end)?;
        let zip64 = zip64_extra(extra).map_err(|what| wrong("extra field", what.into(), "well-formed ones".into()))?;

        let stated = [u32_at(header, 14), u32_at(header, 18), u32_at(header, 22)].map(u64::from);
        let central = [u64::from(member.crc), member.len, member.len];
        let later = flags & FLAG_DESCRIPTOR != 0;
        let wide = zip64.filter(|_| !later).map(|extra| extra.chunks_exact(8).next().map(|b| u64_at(b, 0)));
        for (i, (stated, central)) in stated.into_iter().zip(central).enumerate() {
            let unstated = later && (stated == 0 || stated == u64::from(u32::MAX));
            let in_extra = i > 0 && stated == u64::from(u32::MAX) && wide == Some(Some(central));
            if stated != central && !unstated && !in_extra {
                let what = ["CRC-32", "stored size", "size"][i];
                return Err(wrong(
                    what,
                    format!("{stated} in the local header"),
                    format!("{central} as in the central directory"),
                ));
            }
        }
        let start = at + LOCAL_LEN + name_len + extra_len;
        let data_end = start.checked_add(member.len).filter(|&data_end| data_end <= end);
        let data_end = data_end.ok_or(ZipError::Short { what: "data of a member", at: start, end })?;
        member.start = start;
        if !later {
            return Ok(data_end);
        }

        // After the data: signature, CRC-32, and twice the size, in 64 or 32 bits.
        let crc = member.crc;
        let wide = self.get("data descriptor", data_end, 24, end).ok();
        let narrow = self.get("data descriptor", data_end, 16, end)?;
        let agrees = |bytes: &[u8], sizes: [u64; 2]| {
            bytes.starts_with(DESCRIPTOR) && u32_at(bytes, 4) == crc && sizes == [member.len; 2]
        };
        match wide {
            Some(bytes) if agrees(bytes, [u64_at(bytes, 8), u64_at(bytes, 16)]) => Ok(data_end + 24),
            _ if agrees(narrow, [u32_at(narrow, 8), u32_at(narrow, 12)].map(u64::from)) => Ok(data_end + 16),
            _ => Err(ZipError::Member {
                member: shown(member.name),
                what: "data descriptor",
                found: "another".into(),
                expected: "size and CRC-32 of the central directory".into(),
            }),
        }
    }
}

/// Walks extra fields; the content of the zip64 one.
fn zip64_extra(mut extra: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    let mut found = None;
    while !extra.is_empty() {
        let (Some(header), Some(rest)) = (extra.get(..4), extra.get(4..)) else { return Err("cut short") };
        let len = usize::from(u16_at(header, 2));
        let (Some(content), Some(next)) = (rest.get(..len), rest.get(len..)) else {
            return Err("longer than its room");
        };
        if u16_at(header, 0) == 1 && found.replace(content).is_some() {
            return Err("two zip64 ones");
        }
        extra = next;
    }
    Ok(found)
}

fn bytes_at<const N: usize>(record: &[u8], i: usize) -> [u8; N] {
    *record.get(i..).and_then(|rest| rest.first_chunk()).expect("records are read whole before their fields")
}

fn u16_at(record: &[u8], i: usize) -> u16 {
    u16::from_le_bytes(bytes_at(record, i))
}

fn u32_at(record: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(bytes_at(record, i))
}

fn u64_at(record: &[u8], i: usize) -> u64 {
    u64::from_le_bytes(bytes_at(record, i))
}

/// CRC-32 as zip uses it: reflected polynomial 0xEDB88320.
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, &b| TABLE[usize::from((crc as u8) ^ b)] ^ (crc >> 8))
}
