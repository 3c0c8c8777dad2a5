//! One member of a zip archive: Maven and Leiningen keep their default repositories inside their own archives, and an
//! unpacked image has no tool to ask.
//!
//! Source: PKWARE's APPNOTE.TXT §4.3. Neither zip64 nor encryption: no such archive is larger than 4 GiB.

use std::io::{Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;

/// What a member may unpack to, or be packed.
const MEMBER_BYTES: u64 = 1 << 20;
/// The end with the longest comment; a directory of some hundred thousand members.
const END_BYTES: u64 = 22 + 0xffff;
const DIRECTORY_BYTES: u64 = 16 << 20;
const END: &[u8] = b"PK\x05\x06";
const DIRECTORY: &[u8] = b"PK\x01\x02";
const STORED: usize = 0;
const DEFLATED: usize = 8;

/// A text by its name in the archive, of which no more is read than leads there. None when it is not there, too large, or
/// the archive is not one.
pub(super) fn member(mut archive: impl Read + Seek, name: &str) -> Option<String> {
    let len = archive.seek(SeekFrom::End(0)).ok()?;
    let tail = piece(&mut archive, len.saturating_sub(END_BYTES), END_BYTES)?;
    let end = tail.windows(END.len()).rposition(|window| window == END)?;
    let (entries, size) = (number(&tail, end + 10, 2)?, number(&tail, end + 12, 4)?);
    let from = number(&tail, end + 16, 4)? as u64;
    let directory = piece(&mut archive, from, DIRECTORY_BYTES.min(size as u64))?;
    let mut at = 0;
    for _ in 0..entries {
        let entry = directory.get(at..).filter(|entry| entry.starts_with(DIRECTORY))?;
        let name_len = number(entry, 28, 2)?;
        if entry.get(46..46 + name_len)? == name.as_bytes() {
            let (method, packed, from) = (number(entry, 10, 2)?, number(entry, 20, 4)?, number(entry, 42, 4)? as u64);
            let head = piece(&mut archive, from, 30)?;
            let start = 30 + number(&head, 26, 2)? + number(&head, 28, 2)?;
            let bytes = piece(&mut archive, from + start as u64, MEMBER_BYTES.min(packed as u64))?;
            return unpack(bytes.get(..packed)?, method);
        }
        at += 46 + name_len + number(entry, 30, 2)? + number(entry, 32, 2)?;
    }
    None
}

fn unpack(bytes: &[u8], method: usize) -> Option<String> {
    let mut text = String::new();
    let read = match method {
        STORED => bytes.take(MEMBER_BYTES).read_to_string(&mut text),
        DEFLATED => DeflateDecoder::new(bytes).take(MEMBER_BYTES).read_to_string(&mut text),
        _ => return None,
    };
    read.ok().map(|_| text)
}

/// What is there of `len` bytes from an offset on.
fn piece(archive: &mut (impl Read + Seek), from: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    archive.seek(SeekFrom::Start(from)).ok()?;
    archive.take(len).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A little-endian number of `len` bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    /// An archive of one member, packed or not.
    pub(crate) fn archive(name: &str, text: &str, method: usize) -> Vec<u8> {
        let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text.as_bytes()).expect("packs");
        let packed = if method == DEFLATED { packer.finish().expect("packs") } else { text.as_bytes().to_vec() };
        let short = |number: usize| u16::try_from(number).expect("is short").to_le_bytes();
        let long = |number: usize| u32::try_from(number).expect("is short").to_le_bytes();
        let method = short(method);
        let mut out = [&b"PK\x03\x04"[..], &[0; 4], &method, &[0; 8], &long(packed.len()), &long(text.len())].concat();
        out.extend([&short(name.len())[..], &short(0), name.as_bytes(), &packed].concat());
        let at = out.len();
        out.extend([DIRECTORY, &[0; 6], &method, &[0; 8], &long(packed.len()), &long(text.len())].concat());
        out.extend([&short(name.len())[..], &[0; 16], name.as_bytes()].concat());
        let len = out.len() - at;
        out.extend([END, &[0; 4], &short(1), &short(1), &long(len), &long(at), &short(0)].concat());
        out
    }

    #[test]
    fn a_member_is_found_packed_or_not_and_no_cut_archive_hurts() {
        for method in [STORED, DEFLATED] {
            let archive = archive("a/b.xml", "<url>https://a.example</url>", method);
            assert_eq!(member(Cursor::new(&archive), "a/b.xml").as_deref(), Some("<url>https://a.example</url>"));
            assert_eq!(member(Cursor::new(&archive), "a/c.xml"), None);
            for len in 0..archive.len() {
                member(Cursor::new(&archive[..len]), "a/b.xml");
                member(Cursor::new(&archive[len..]), "a/b.xml");
            }
        }
        assert_eq!(member(Cursor::new(archive("a", "text", 99)), "a"), None, "an unknown method");
    }
}
