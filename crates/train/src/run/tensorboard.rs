//! Event files of TensorBoard: records of `Event` messages, framed and checked as TFRecords are.
//!
//! A record is its length (u64), a checksum of that, the bytes, and a checksum of those, all little-endian. A checksum is
//! the CRC-32C, rotated and offset so that checksums of data that contains checksums stay good.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// A file of scalars.
pub struct EventFile(File);

impl EventFile {
    /// A new one; its name must contain `tfevents` to be found.
    pub fn create(path: &Path, wall_time: f64) -> io::Result<EventFile> {
        let mut file = EventFile(File::create(path)?);
        let mut event = Message::default();
        event.double(1, wall_time);
        event.bytes(3, b"brain.Event:2");
        file.record(&event.0)?;
        Ok(file)
    }

    /// Appends values of one step.
    pub fn scalars(&mut self, wall_time: f64, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let mut scalar = Message::default();
            scalar.bytes(1, tag.as_bytes());
            scalar.float(2, *value as f32);
            summary.bytes(1, &scalar.0);
        }
        let mut event = Message::default();
        event.double(1, wall_time);
        event.int(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let len = (data.len() as u64).to_le_bytes();
        let mut record = len.to_vec();
        record.extend(checksum(&len).to_le_bytes());
        record.extend(data);
        record.extend(checksum(data).to_le_bytes());
        // At once, so that who reads along finds whole records.
        self.0.write_all(&record)
    }
}

/// A message of protocol buffers.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn int(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

fn checksum(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 by Castagnoli's polynomial, bits reversed.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc: u32, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn records_are_framed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.out.tfevents.1");
        let mut file = EventFile::create(&path, 1.5).unwrap();
        file.scalars(2.5, 300, &[("loss", 0.25)]).unwrap();
        let bytes = std::fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], checksum(&rest[..8]).to_le_bytes());
            let data = &rest[12..12 + len];
            assert_eq!(rest[12 + len..16 + len], checksum(data).to_le_bytes());
            records.push(data.to_vec());
            rest = &rest[16 + len..];
        }
        let version = [&[9][..], &1.5f64.to_le_bytes(), &[26, 13], b"brain.Event:2"].concat();
        let value = [&[10, 4][..], b"loss", &[21], &0.25f32.to_le_bytes()].concat();
        let summary = [&[10, value.len() as u8][..], &value].concat();
        let scalar = [&[9][..], &2.5f64.to_le_bytes(), &[16, 0xac, 2, 42, summary.len() as u8], &summary].concat();
        assert_eq!(records, [version, scalar]);
    }
}
