//! Zip archives: NumPy's `.npz`, an archive of `.npy` files, and archives with a single file, which is read as if it
//! were alone.

//!
//! The directory (PKWARE's APPNOTE.TXT, 4.3) is parsed only for the location of the files, with the ZIP64 extension
//! that NumPy always writes.

use std::io::{self, BufReader, Read};

use flate2::bufread::DeflateDecoder;

use super::choice::{Array, choose};
use super::input::Input;
use super::region::Region;
use super::{FileError, ReadOptions, RowReader, foreign, npy};
use crate::model::text::first_items;

/// Maximum number of files in an archive.
const ENTRIES_MAX: usize = 10_000;
/// Maximum number of names that a message lists.
const SHOWN_MAX: usize = 30;
/// Maximum size of the directory, enough for names of some hundred bytes each.
const DIRECTORY_BYTES_MAX: u64 = 16 << 20;
const BUFFER_BYTES: usize = 1 << 16;
/// Compression methods.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// What an archive contains.
pub(super) enum Content {
    /// `.npy` arrays.
    Arrays(Archive),
    /// A single file, opened.
    One(Box<Input>),
}

/// A zip archive and its files.
pub(super) struct Archive {
    path: String,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    method: u16,
    encrypted: bool,
    /// The compressed bytes.
    data: Region,
    /// Size in bytes after decompression, and CRC-32 of those bytes.
    size: u64,
    crc: u32,
}

/// Opens an archive and finds out what it contains.
pub(super) fn open(input: &mut Input) -> Result<Content, FileError> {
    let region = input.positions("a zip archive")?;
    let archive = Archive::read(&input.path, &region)?;
    let names: Vec<String> = archive.entries.iter().map(|entry| entry.name.clone()).collect();
    if let Some(foreign) = foreign::by_entries(&names) {
        return Err(foreign.refusal(&input.path));
    }
    if !names.is_empty() && names.iter().all(|name| name.strip_suffix(".npy").is_some()) {
        return Ok(Content::Arrays(archive));
    }
    let [only] = archive.entries.as_slice() else {
        let got = format!("it is a zip archive of {} files", names.len());
        let names = first_items(names.iter(), SHOWN_MAX, ", ", |_| ", ...".to_owned());
        let expected = format!("one file in it: unpack it and choose one of {names}");
        return Err(FileError::content(&input.path, got, expected));
    };
    let (stream, plain) = archive.bytes(only)?;
    let path = format!("{} ({})", input.path, only.name);
    let mut inner = Input::new(&path, stream, plain)?;
    inner.name.clone_from(&only.name);
    inner.missing = input.missing;
    inner.notes = vec![format!("it is a zip archive; its only file, {}, is read", only.name)];
    Ok(Content::One(Box::new(inner)))
}

impl Archive {
    fn read(path: &str, region: &Region) -> Result<Self, FileError> {
        let broken = |reason: String| {
            FileError::content(path, format!("its directory is invalid ({reason})"), "a whole zip archive")
        };
        let entries = entries(region).map_err(broken)?;
        Ok(Self { path: path.to_owned(), entries })
    }

    /// A stream of the decompressed bytes of a file, checked at their end; also a region for random access if the file
    /// is stored uncompressed.
    fn bytes(&self, entry: &Entry) -> Result<(Box<dyn Read + Send>, Option<Region>), FileError> {
        let name = &entry.name;
        let wrong = |got: String, expected| FileError::content(&self.path, got, expected);
        if entry.encrypted {
            return Err(wrong(format!("{name} in it is encrypted"), "a file without a password"));
        }
        let packed = entry.data.reader(0);
        let checked = |inner: Box<dyn Read + Send>| Checked {
            inner,
            crc: crc32fast::Hasher::new(),
            left: entry.size,
            expected: entry.crc,
            ended: false,
        };
        match entry.method {
            STORED => Ok((Box::new(checked(Box::new(packed))), Some(entry.data.clone()))),
            DEFLATED => {
                let packed = BufReader::with_capacity(BUFFER_BYTES, packed);
                Ok((Box::new(checked(Box::new(DeflateDecoder::new(packed)))), None))
            }
            other => {
                Err(wrong(format!("{name} in it is compressed by method {other}"), "deflate, as zip and NumPy write"))
            }
        }
    }

    fn input(&self, entry: &Entry) -> Result<Input, FileError> {
        let (stream, region) = self.bytes(entry)?;
        let path = format!("{} ({})", self.path, entry.name);
        let mut input = Input::new(&path, stream, region)?;
        input.name.clone_from(&entry.name);
        Ok(input)
    }
}

/// Reads `N` bytes at an offset.
fn bytes<const N: usize>(region: &Region, at: u64) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    region.read_exact_at(&mut bytes, at).map_err(|error| format!("byte {at}: {error}"))?;
    Ok(bytes)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
}

fn huge(bytes: &[u8], at: usize) -> u64 {
    long(bytes, at) | long(bytes, at + 4) << 32
}

/// Location of the directory: first byte, length in bytes, number of files.
fn directory(region: &Region) -> Result<(u64, u64, u64), String> {
    /// Size of the end record without its comment, which has at most 65,535 bytes.
    const END: usize = 22;
    let tail_length = region.length().min((END + usize::from(u16::MAX)) as u64);
    let first = region.length() - tail_length;
    let mut tail = vec![0; tail_length as usize];
    region.read_exact_at(&mut tail, first).map_err(|error| error.to_string())?;
    let is_end = |at: &usize| {
        let end = &tail[*at..];
        end.starts_with(b"PK\x05\x06") && END + usize::from(short(end, 20)) == end.len()
    };
    let at = (0..(tail.len() + 1).saturating_sub(END)).rev().find(is_end).ok_or("it has no end record")?;
    let end = &tail[at..];
    let found = (long(end, 16), long(end, 12), u64::from(short(end, 10)));
    let is_large = found.0 == u64::from(u32::MAX) || found.1 == u64::from(u32::MAX) || found.2 == u64::from(u16::MAX);
    if !is_large {
        return Ok(found);
    }
    let locator = (first + at as u64).checked_sub(20).ok_or("it has no ZIP64 locator")?;
    let locator: [u8; 20] = bytes(region, locator)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(found);
    }
    let end: [u8; 56] = bytes(region, huge(&locator, 8))?;
    if !end.starts_with(b"PK\x06\x06") {
        return Err("its ZIP64 end record is not at the stated offset".to_owned());
    }
    Ok((huge(&end, 48), huge(&end, 40), huge(&end, 32)))
}

fn entries(region: &Region) -> Result<Vec<Entry>, String> {
    /// Size of a directory entry without its name, extra field and comment.
    const HEAD: usize = 46;
    let (first, length, count) = directory(region)?;
    if count > ENTRIES_MAX as u64 || length > DIRECTORY_BYTES_MAX {
        return Err(format!(
            "{count} files in {length} bytes, expected at most {ENTRIES_MAX} in {DIRECTORY_BYTES_MAX}"
        ));
    }
    let directory = region.part(first, length).ok_or_else(|| format!("{length} bytes at {first}"))?;
    let mut all = vec![0; length as usize];
    directory.read_exact_at(&mut all, 0).map_err(|error| error.to_string())?;
    let (mut entries, mut rest) = (Vec::new(), all.as_slice());
    for _ in 0..count {
        let Some((head, behind)) = rest.split_at_checked(HEAD).filter(|(head, _)| head.starts_with(b"PK\x01\x02"))
        else {
            return Err(format!("a file of {count} is missing"));
        };
        let lengths = [28, 30, 32].map(|at| usize::from(short(head, at)));
        let [name, extra, _] = lengths;
        if behind.len() < lengths.iter().sum() {
            return Err(format!("a file of {count} ends too early"));
        }
        rest = &behind[lengths.iter().sum::<usize>()..];
        let name_text = String::from_utf8_lossy(&behind[..name]).into_owned();
        let mut sizes = [long(head, 24), long(head, 20), long(head, 42)];
        enlarge(&mut sizes, &behind[name..name + extra]).ok_or_else(|| format!("{name_text} has no sizes"))?;
        let [size, packed, local] = sizes;
        // Skip folders and the files that macOS and Windows add.
        let hidden =
            name_text.starts_with("__MACOSX/") || name_text.ends_with(".DS_Store") || name_text.ends_with("Thumbs.db");
        if hidden || name_text.ends_with('/') {
            continue;
        }
        let head_there: [u8; 30] = bytes(region, local)?;
        if !head_there.starts_with(b"PK\x03\x04") {
            return Err(format!("{name_text} is not at byte {local}"));
        }
        let skipped = 30 + u64::from(short(&head_there, 26)) + u64::from(short(&head_there, 28));
        let data = local.checked_add(skipped).and_then(|start| region.part(start, packed));
        let data = data.ok_or_else(|| format!("{name_text} has {packed} bytes at {local}"))?;
        entries.push(Entry {
            name: name_text,
            method: short(head, 10),
            encrypted: short(head, 8) & 1 == 1,
            data,
            size,
            crc: u32::from_le_bytes([head[16], head[17], head[18], head[19]]),
        });
    }
    Ok(entries)
}

/// Replaces sizes and offsets that do not fit into 32 bits by the 64-bit values of the ZIP64 extra field; `None` if
/// these are missing.
fn enlarge(sizes: &mut [u64; 3], mut extra: &[u8]) -> Option<()> {
    let is_large = |size: &u64| *size == u64::from(u32::MAX);
    if !sizes.iter().any(is_large) {
        return Some(());
    }
    while extra.len() >= 4 {
        let (id, length) = (short(extra, 0), usize::from(short(extra, 2)));
        let field = extra.get(4..4 + length)?;
        extra = &extra[4 + length..];
        if id == 1 {
            let mut values = field.chunks_exact(8);
            for size in sizes.iter_mut().filter(|size| is_large(size)) {
                *size = huge(values.next()?, 0);
            }
            return Some(());
        }
    }
    None
}

/// A stream of known length and checksum; reading fails at the end if either differs.
struct Checked {
    inner: Box<dyn Read + Send>,
    crc: crc32fast::Hasher,
    left: u64,
    expected: u32,
    ended: bool,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = self.inner.read(buffer)?;
        let broken = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        if read == 0 {
            if self.left > 0 {
                return broken("a file in the archive ends too early");
            }
            if self.crc.clone().finalize() != self.expected {
                return broken("a file in the archive does not have its checksum");
            }
            self.ended = true;
            return Ok(0);
        }
        let Some(left) = self.left.checked_sub(read as u64) else {
            return broken("a file in the archive is longer than the archive says");
        };
        self.left = left;
        self.crc.update(&buffer[..read]);
        Ok(read)
    }
}

/// Opens one of the arrays of an `.npz` file.
pub(super) fn npz(archive: &Archive, input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let mut arrays = Vec::new();
    for entry in &archive.entries {
        let name = entry.name.strip_suffix(".npy").unwrap_or(&entry.name).to_owned();
        // An unreadable array must not prevent reading another one.
        let described = archive.input(entry).and_then(|mut input| npy::describe(&mut input));
        let (shown, is_table) = described.unwrap_or_else(|_| ("not readable".to_owned(), false));
        arrays.push(Array { name, shown, is_table });
    }
    let mut notes = input.notes;
    let chosen = choose(&archive.path, &arrays, options, &mut notes)?;
    let mut inner = archive.input(&archive.entries[chosen])?;
    (inner.missing, inner.notes) = (input.missing, notes);
    npy::open(inner)
}
