//! Arrow's IPC format, read message by message, as a stream or as a file. A file is a stream between a magic mark and a
//! footer; the footer lists the offsets of the batches.
//!
//! This module parses the framing itself, for two reasons. A false length must not allocate memory. And a stream that
//! stops without its end mark must be an error; the crate accepts it. Files are read through their footer where
//! possible, because Polars writes a beginning that is not a valid stream. Only pipes and compressed files are read
//! from front to back.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::vec;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::{Endianness, Message, MessageHeader, Schema, root_as_footer, root_as_message};
use arrow_schema::SchemaRef;

use super::{Batches, chosen, columns, decode, table};
use crate::files::input::Input;
use crate::files::region::Region;
use crate::files::{FileError, Location, ReadOptions, RowReader};

const FILE_MARK: &[u8; 6] = b"ARROW1";
/// Size of the file mark with its zero padding.
const FILE_MARK_BYTES: u64 = 8;
/// Some writers pad up to here. Later in the file, zeros are the end mark.
const FILE_MARK_BYTES_MAX: u64 = 64;
/// Size of a file's end: the length of the footer, and the mark.
const FILE_END_BYTES: u64 = 10;
/// Precedes the length of a message, since Arrow 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Maximum size of a message's metadata: 65,536 columns with long names.
const METADATA_BYTES_MAX: u32 = 64 << 20;
/// Maximum size of a batch, compressed or not: one batch is in memory at a time.
const BATCH_BYTES_MAX: u64 = 1 << 30;
/// Maximum number of dictionaries.
const DICTIONARIES_MAX: usize = 1000;
/// The format's name in errors.
const WHAT: &str = "Arrow IPC";

struct Ipc {
    input: Input,
    /// Byte offset of the next read.
    at: u64,
    is_file: bool,
    /// For a file read through its footer: the file, and the offsets of the remaining batches.
    blocks: Option<(Region, vec::IntoIter<u64>)>,
    schema: SchemaRef,
    /// The columns to decode; `None` for all.
    fields: Option<Vec<usize>>,
    /// Dictionaries by their id in the schema; `None` if no column that is read has one.
    dictionaries: Option<HashMap<i64, ArrayRef>>,
    /// Whether the end mark was read.
    ended: bool,
}

pub(in crate::files) fn open(mut input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let path = input.path.clone();
    let start = input.stream.fill_buf().map_err(FileError::io(&path))?;
    let is_file = start.starts_with(FILE_MARK);
    let file = input.region.take().filter(|_| is_file);
    let notes = std::mem::take(&mut input.notes);
    let schema = SchemaRef::new(arrow_schema::Schema::empty());
    let mut ipc = Ipc { input, at: 0, is_file, blocks: None, schema, fields: None, dictionaries: None, ended: false };
    ipc.schema = match file {
        Some(file) => ipc.read_footer(file)?,
        None => ipc.read_front()?,
    };
    let chosen = chosen(&path, &ipc.schema, options)?;
    let is_dictionary = |field: &usize| columns::is_dictionary(ipc.schema.field(*field));
    ipc.dictionaries = chosen.fields.iter().any(is_dictionary).then(HashMap::new);
    ipc.fields = (chosen.fields.len() < ipc.schema.fields().len()).then_some(chosen.fields);
    table(&path, ipc, &chosen.order, chosen.missing, notes)
}

fn schema(schema: Option<Schema<'_>>) -> Result<SchemaRef, String> {
    let schema = schema.ok_or("it has no schema")?;
    if schema.endianness() != Endianness::Little {
        return Err("its numbers are big-endian".to_owned());
    }
    try_fb_to_schema(schema).map(SchemaRef::new).map_err(|error| error.to_string())
}

impl Ipc {
    /// Reads the schema, the first message of a stream.
    fn read_front(&mut self) -> Result<SchemaRef, FileError> {
        if self.is_file {
            self.bytes(FILE_MARK_BYTES, "the mark of an Arrow file")?;
        }
        let place = Location::Byte(self.at);
        let message = self.message()?;
        let path = &self.input.path;
        let Some((metadata, _)) = message else {
            return Err(FileError::at(path, place, "the stream ends", "a schema"));
        };
        decode(path, WHAT, || schema(root_as_message(&metadata).map_err(|error| error.to_string())?.header_as_schema()))
    }

    /// Reads the footer: the schema and the offsets of the batches.
    fn read_footer(&mut self, file: Region) -> Result<SchemaRef, FileError> {
        let path = &self.input.path;
        let length = file.length();
        let read = |count: usize, at: u64| {
            let mut bytes = vec![0; count];
            file.read_exact_at(&mut bytes, at).map_err(FileError::short(path, "its footer")).map(|()| bytes)
        };
        let end = length.saturating_sub(FILE_END_BYTES).max(FILE_MARK_BYTES);
        let tail = read(FILE_END_BYTES as usize, end)?;
        let (count, mark) = tail.split_at(4);
        if mark != FILE_MARK {
            let got = format!("it ends with {mark:02x?}");
            return Err(FileError::at(path, Location::Byte(length), got, "the mark of an Arrow file, ARROW1"));
        }
        let count = count.first_chunk::<4>().map_or(0, |count| u32::from_le_bytes(*count));
        if count > METADATA_BYTES_MAX || u64::from(count) > end - FILE_MARK_BYTES {
            let got = format!("a footer of {count} bytes");
            let most = (end - FILE_MARK_BYTES).min(METADATA_BYTES_MAX.into());
            return Err(FileError::at(path, Location::Byte(end), got, format!("at most {most}")));
        }
        let footer = read(count as usize, end - u64::from(count))?;
        let (schema, blocks) = decode(path, WHAT, || {
            let footer = root_as_footer(&footer).map_err(|error| error.to_string())?;
            // Dictionaries first, because batches refer to them.
            let dictionaries = footer.dictionaries().into_iter().flatten();
            let batches = dictionaries.chain(footer.recordBatches().into_iter().flatten());
            let blocks: Result<Vec<u64>, _> = batches.map(|block| u64::try_from(block.offset())).collect();
            let blocks = blocks.map_err(|_| "a batch before the beginning of the file".to_owned())?;
            Ok::<_, String>((schema(footer.schema())?, blocks))
        })?;
        self.blocks = Some((file, blocks.into_iter()));
        Ok(schema)
    }

    /// The next message that can be a batch, and its location.
    fn next_message(&mut self) -> Result<Option<(Location, Vec<u8>, Buffer)>, FileError> {
        let Some((file, blocks)) = &mut self.blocks else {
            let place = Location::Byte(self.at);
            let message = if self.ended { None } else { self.message()? };
            return Ok(message.map(|(metadata, body)| (place, metadata, body)));
        };
        let Some(position) = blocks.next() else { return Ok(None) };
        self.input.stream = Box::new(BufReader::new(file.reader(position)));
        self.at = position;
        let place = Location::Byte(position);
        match self.message()? {
            Some((metadata, body)) => Ok(Some((place, metadata, body))),
            None => Err(FileError::at(&self.input.path, place, "no message", "a batch, as the footer promises")),
        }
    }
}

impl Ipc {
    /// Reads the next `count` bytes. Memory grows with the bytes read, not with `count`.
    fn bytes(&mut self, count: u64, what: &str) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        let mut taken = (&mut self.input.stream).take(count);
        taken.read_to_end(&mut bytes).map_err(FileError::io(&self.input.path))?;
        if (bytes.len() as u64) < count {
            let got = format!("it ends after {} bytes", self.at + bytes.len() as u64);
            return Err(FileError::at(
                &self.input.path,
                Location::Byte(self.at),
                got,
                format!("{count} bytes: {what}"),
            ));
        }
        self.at += count;
        Ok(bytes)
    }

    fn number(&mut self, what: &str) -> Result<[u8; 4], FileError> {
        let bytes = self.bytes(4, what)?;
        Ok([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// The next message: its metadata and its body; `None` at the end mark.
    fn message(&mut self) -> Result<Option<(Vec<u8>, Buffer)>, FileError> {
        let at = self.at;
        let mut length = self.number("a message, or the end mark")?;
        while self.is_file && self.blocks.is_none() && self.at <= FILE_MARK_BYTES_MAX && length == [0; 4] {
            length = self.number("a schema")?;
        }
        if length == CONTINUATION {
            length = self.number("the length of a message")?;
        }
        let length = u32::from_le_bytes(length);
        if length == 0 {
            self.ended = true;
            if self.blocks.is_none() {
                self.check_end()?;
            }
            return Ok(None);
        }
        let path = self.input.path.clone();
        if length > METADATA_BYTES_MAX {
            let got = format!("message metadata of {length} bytes");
            return Err(FileError::at(&path, Location::Byte(at), got, format!("at most {METADATA_BYTES_MAX}")));
        }
        let metadata = self.bytes(u64::from(length), "the metadata of a message")?;
        let body = decode(&path, WHAT, || root_as_message(&metadata).map(|message| message.bodyLength()))?;
        let length = u64::try_from(body).ok().filter(|length| *length <= BATCH_BYTES_MAX);
        let length = length.ok_or_else(|| {
            let got = format!("a batch of {body} bytes");
            FileError::at(&path, Location::Byte(at), got, format!("at most {BATCH_BYTES_MAX}: write smaller batches"))
        })?;
        let body = self.bytes(length, "a batch")?;
        Ok(Some((metadata, Buffer::from_vec(body))))
    }

    /// Checks that after the end mark there is nothing, or in a file only the footer and the mark.
    fn check_end(&mut self) -> Result<(), FileError> {
        let path = &self.input.path;
        let mut tail = [0; FILE_MARK.len()];
        let mut length = 0u64;
        loop {
            let piece = self.input.stream.fill_buf().map_err(FileError::io(path))?;
            if piece.is_empty() {
                break;
            }
            for byte in &piece[piece.len().saturating_sub(tail.len())..] {
                tail.rotate_left(1);
                tail[tail.len() - 1] = *byte;
            }
            let count = piece.len();
            length += count as u64;
            self.input.stream.consume(count);
        }
        if self.is_file && &tail != FILE_MARK {
            let got = format!("it ends with {tail:02x?}");
            return Err(FileError::at(
                path,
                Location::Byte(self.at + length),
                got,
                "the mark of an Arrow file, ARROW1",
            ));
        }
        if !self.is_file && length > 0 {
            return Err(FileError::at(path, Location::Byte(self.at), format!("{length} more bytes"), "the end"));
        }
        Ok(())
    }
}

impl Batches for Ipc {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, FileError> {
        while let Some((place, metadata, body)) = self.next_message()? {
            let path = &self.input.path;
            let (schema, fields, dictionaries) = (&self.schema, self.fields.as_deref(), &mut self.dictionaries);
            let batch = decode(path, WHAT, || {
                let message = root_as_message(&metadata).map_err(|error| error.to_string())?;
                batch(&message, &body, schema, fields, dictionaries)
            });
            match batch {
                Ok(None) => {}
                Ok(Some(batch)) => return Ok(Some(batch)),
                Err(FileError::Content { path, got, expected, .. }) => {
                    return Err(FileError::Content { path, place, got, expected });
                }
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }
    fn rows(&self) -> Option<u64> {
        None
    }
}

/// The batch of a message; `None` for a dictionary, which is stored if needed.
fn batch(
    message: &Message<'_>,
    body: &Buffer,
    schema: &SchemaRef,
    fields: Option<&[usize]>,
    dictionaries: &mut Option<HashMap<i64, ArrayRef>>,
) -> Result<Option<RecordBatch>, String> {
    let version = message.version();
    if message.header_type() == MessageHeader::DictionaryBatch {
        let Some(dictionaries) = dictionaries else { return Ok(None) };
        let batch = message.header_as_dictionary_batch().ok_or("a message that is not a dictionary")?;
        check_buffers(&batch.data().ok_or("a dictionary without values")?, body)?;
        if dictionaries.len() >= DICTIONARIES_MAX {
            return Err(format!("more than {DICTIONARIES_MAX} dictionaries"));
        }
        read_dictionary(body, batch, schema, dictionaries, &version).map_err(|error| error.to_string())?;
        return Ok(None);
    }
    let batch = message.header_as_record_batch().ok_or("a message that is not a batch of rows")?;
    check_buffers(&batch, body)?;
    let none = HashMap::new();
    let dictionaries = dictionaries.as_ref().unwrap_or(&none);
    read_record_batch(body, batch, schema.clone(), dictionaries, fields, &version)
        .map(Some)
        .map_err(|error| error.to_string())
}

/// Rejects buffers outside of the body, and batches too large after decompression. The crate checks neither.
fn check_buffers(batch: &arrow_ipc::RecordBatch<'_>, body: &Buffer) -> Result<(), String> {
    let packed = batch.compression().is_some();
    let mut unpacked = 0u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let (offset, length) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
        let bytes = offset.ok().zip(length.ok()).and_then(|(offset, length)| body.get(offset..)?.get(..length));
        let Some(bytes) = bytes else {
            let (offset, length) = (buffer.offset(), buffer.length());
            return Err(format!("a buffer of {length} bytes at offset {offset} in a batch of {} bytes", body.len()));
        };
        // A compressed buffer begins with its uncompressed length; a negative length means that it is not compressed.
        if packed && let Some(length) = bytes.first_chunk::<8>() {
            unpacked = unpacked.saturating_add(u64::try_from(i64::from_le_bytes(*length)).unwrap_or(0));
        }
    }
    if unpacked > BATCH_BYTES_MAX {
        return Err(format!("a batch of {unpacked} bytes after decompression, at most {BATCH_BYTES_MAX} are allowed"));
    }
    Ok(())
}
