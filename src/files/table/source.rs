//! Decodes a text file of any encoding to UTF-8, a piece at a time.

use std::io::BufRead;

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

use super::options::TextEncoding;
use crate::files::FileError;

/// Size of the sample for all decisions about a file, unless its first records are longer.
const SAMPLE_BYTES: usize = 1 << 18;
/// Number of lines in the sample of a live stream, which may pause for long.
const LIVE_LINES: usize = 2;
/// Minimum number of bytes to read at a time.
const PIECE_BYTES: usize = 1 << 18;

/// Text, read from front to back. The part that is read but not consumed is in memory.
pub(super) struct Source {
    path: String,
    stream: Box<dyn BufRead + Send>,
    /// Converts the bytes to UTF-8; `None` if the file is UTF-8.
    decoder: Option<Decoder>,
    encoding: &'static Encoding,
    /// How the encoding was detected, unless it is UTF-8.
    note: Option<String>,
    text: Vec<u8>,
    start: usize,
    ended: bool,
    /// Whether a byte sequence is invalid in the encoding; reading stops there.
    damaged: bool,
    has_bom: bool,
}

impl Source {
    /// Reads the beginning, and detects the encoding unless it is given. With `live`, waits only for the first lines,
    /// because the stream may pause for long.
    pub(super) fn open(
        path: &str,
        mut stream: Box<dyn BufRead + Send>,
        encoding: Option<TextEncoding>,
        live: bool,
    ) -> Result<Self, FileError> {
        let mut head = Vec::new();
        let mut ended = false;
        while head.len() < SAMPLE_BYTES && !(live && lines(&head) >= LIVE_LINES) {
            let piece = fill(&mut stream).map_err(FileError::io(path))?;
            if piece.is_empty() {
                ended = true;
                break;
            }
            let bytes = piece.len().min(SAMPLE_BYTES - head.len());
            head.extend_from_slice(&piece[..bytes]);
            stream.consume(bytes);
        }
        let found = match encoding {
            Some(TextEncoding(encoding)) => Found::given(encoding, &head),
            None => Found::by(&head, ended).map_err(|got| FileError::content(path, got, "text: save it as UTF-8"))?,
        };
        let Found { encoding, bom_bytes, note } = found;
        let has_bom = bom_bytes == 3;
        let decoder = (encoding != UTF_8).then(|| encoding.new_decoder_without_bom_handling());
        let mut source = Self {
            path: path.to_owned(),
            stream,
            decoder,
            encoding,
            note,
            text: Vec::new(),
            start: 0,
            ended: false,
            damaged: false,
            has_bom,
        };
        source.add(&head[bom_bytes..], ended);
        source.ended |= ended;
        source.trim_end();
        Ok(source)
    }

    /// The text that is read and not consumed.
    pub(super) fn text(&self) -> &[u8] {
        &self.text[self.start..]
    }

    /// Whether nothing follows [`Source::text`].
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the text ends because the next bytes are invalid in the encoding.
    pub(super) fn damaged(&self) -> bool {
        self.damaged
    }

    pub(super) fn encoding(&self) -> &'static str {
        self.encoding.name()
    }

    /// A note on the encoding, for the user.
    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether the file begins with a UTF-8 byte order mark.
    pub(super) fn has_bom(&self) -> bool {
        self.has_bom
    }

    /// Marks the first `bytes` of the text as consumed. They stay in memory until [`Source::more`] is called.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// The last `bytes` of the consumed text.
    pub(super) fn consumed(&self, bytes: usize) -> &[u8] {
        &self.text[self.start - bytes..self.start]
    }

    /// Reads more: at least doubles the text in memory, so that scanning it again costs no more than reading it.
    pub(super) fn more(&mut self) -> Result<(), FileError> {
        self.text.drain(..self.start);
        self.start = 0;
        let wanted = self.text.len() * 2 + PIECE_BYTES;
        while self.text.len() < wanted && !self.ended {
            let piece = fill(&mut self.stream).map_err(FileError::io(&self.path))?;
            let (bytes, last) = (piece.len(), piece.is_empty());
            if self.decoder.is_none() {
                self.text.extend_from_slice(piece);
            } else {
                let piece = piece.to_vec();
                self.add(&piece, last);
            }
            self.stream.consume(bytes);
            self.ended |= last;
            // A pipe may pause: return complete lines instead of waiting for more.
            if bytes < PIECE_BYTES / 8 && self.text.last() == Some(&b'\n') {
                break;
            }
        }
        self.trim_end();
        Ok(())
    }

    /// Removes the DOS end-of-file mark.
    fn trim_end(&mut self) {
        if self.ended && self.text.last() == Some(&0x1a) {
            self.text.pop();
        }
    }

    /// Decodes bytes of the file; `last` if no more follow.
    fn add(&mut self, bytes: &[u8], last: bool) {
        let Some(decoder) = &mut self.decoder else {
            self.text.extend_from_slice(bytes);
            return;
        };
        let mut rest = bytes;
        loop {
            let before = self.text.len();
            let room = decoder.max_utf8_buffer_length_without_replacement(rest.len()).unwrap_or(PIECE_BYTES).max(16);
            self.text.resize(before + room, 0);
            let (result, read, written) =
                decoder.decode_to_utf8_without_replacement(rest, &mut self.text[before..], last);
            self.text.truncate(before + written);
            rest = &rest[read..];
            match result {
                DecoderResult::InputEmpty => return,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) => {
                    (self.ended, self.damaged) = (true, true);
                    return;
                }
            }
        }
    }
}

/// The next bytes of a stream; retries after an interrupting signal.
fn fill(stream: &mut Box<dyn BufRead + Send>) -> std::io::Result<&[u8]> {
    loop {
        match stream.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.fill_buf()
}

fn lines(bytes: &[u8]) -> usize {
    memchr::memchr2_iter(b'\n', b'\r', bytes).count()
}

/// An encoding, and how it was detected.
struct Found {
    encoding: &'static Encoding,
    bom_bytes: usize,
    note: Option<String>,
}

impl Found {
    fn given(encoding: &'static Encoding, head: &[u8]) -> Self {
        // For UTF-16, a byte order mark decides the byte order.
        let (encoding, bom_bytes) = match Encoding::for_bom(head) {
            Some((by_mark, bytes)) if by_mark == encoding => (encoding, bytes),
            Some((by_mark, bytes)) if encoding == UTF_16LE && by_mark == UTF_16BE => (by_mark, bytes),
            _ => (encoding, 0),
        };
        Self { encoding, bom_bytes, note: None }
    }

    /// Detects the encoding: by a byte order mark, by the position of zero bytes, or by whether the bytes are UTF-8.
    fn by(head: &[u8], ended: bool) -> Result<Self, String> {
        if head.starts_with(&[0xff, 0xfe, 0, 0]) || head.starts_with(&[0, 0, 0xfe, 0xff]) {
            return Err("it is UTF-32".to_owned());
        }
        if let Some((encoding, bom_bytes)) = Encoding::for_bom(head) {
            let note = (encoding != UTF_8).then(|| format!("the text is {}", encoding.name()));
            return Ok(Self { encoding, bom_bytes, note });
        }
        let zeros = |parity: usize| head.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count();
        let (even, odd, pairs) = (zeros(0), zeros(1), head.len() / 2);
        if even + odd > 0 {
            // Numbers, separators and line ends are ASCII; in UTF-16 the other byte of each is zero.
            let mostly = |many: usize, few: usize| pairs > 0 && many * 10 >= pairs * 7 && few * 20 <= pairs;
            let encoding = match (mostly(odd, even), mostly(even, odd)) {
                (true, false) => UTF_16LE,
                (false, true) => UTF_16BE,
                _ => {
                    let byte = head.iter().position(|byte| *byte == 0).unwrap_or_default();
                    return Err(format!("byte {byte} is 0, so it is not text"));
                }
            };
            let note = format!("the text is {} without a byte order mark", encoding.name());
            return Ok(Self { encoding, bom_bytes: 0, note: Some(note) });
        }
        match std::str::from_utf8(head) {
            Ok(_) => return Ok(Self { encoding: UTF_8, bom_bytes: 0, note: None }),
            // The sample ends within a character.
            Err(error) if error.error_len().is_none() && !ended => {
                return Ok(Self { encoding: UTF_8, bom_bytes: 0, note: None });
            }
            Err(_) => {}
        }
        // Text in another encoding rarely contains valid multi-byte UTF-8; damaged UTF-8 contains many such sequences.
        let (mut sequences, mut damages) = (0usize, 0usize);
        for chunk in head.utf8_chunks() {
            sequences += chunk.valid().chars().filter(|character| !character.is_ascii()).count();
            damages += usize::from(!chunk.invalid().is_empty());
        }
        if sequences > damages {
            return Ok(Self { encoding: UTF_8, bom_bytes: 0, note: None });
        }
        let note = "the text is not UTF-8 and is read as windows-1252 (use --encoding if it is another)".to_owned();
        Ok(Self { encoding: WINDOWS_1252, bom_bytes: 0, note: Some(note) })
    }
}

/// Decodes a small text as a whole, for tests.
#[cfg(test)]
fn whole(bytes: &[u8]) -> Result<(String, &'static str, bool), FileError> {
    let mut source = Source::open("t", Box::new(std::io::Cursor::new(bytes.to_vec())), None, false)?;
    while !source.ended() {
        source.more()?;
    }
    Ok((String::from_utf8_lossy(source.text()).into_owned(), source.encoding(), source.damaged()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, big_endian: bool, bom: bool) -> Vec<u8> {
        let units = bom.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        units.flat_map(|unit| if big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    }

    #[test]
    fn encodings_are_detected_with_and_without_a_bom() {
        let text = "Größe,b\n1.5,2\n";
        for (big_endian, name) in [(false, "UTF-16LE"), (true, "UTF-16BE")] {
            for bom in [false, true] {
                let got = whole(&utf16(text, big_endian, bom)).expect("reads");
                assert_eq!(got, (text.to_owned(), name, false), "{big_endian} {bom}");
            }
        }
        assert_eq!(whole(text.as_bytes()).expect("reads"), (text.to_owned(), "UTF-8", false));
        let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
        assert_eq!(whole(&marked).expect("reads"), (text.to_owned(), "UTF-8", false));
        assert_eq!(whole(b"Gr\xf6\xdfe,b\n1.5,2\n").expect("reads"), (text.to_owned(), "windows-1252", false));
        assert!(whole(&[0xff, 0xfe, 0, 0, 65, 0, 0, 0]).expect_err("refused").to_string().contains("UTF-32"));
        assert!(whole(b"1,2\n3,\x004\n").expect_err("refused").to_string().contains("byte 6 is 0"));
    }

    #[test]
    fn half_a_character_of_utf16_is_damage() {
        let mut bytes = utf16("a,b\n1,2\n", false, true);
        bytes.push(b'3');
        assert!(whole(&bytes).expect("reads").2);
        let lone = [utf16("a,b\n1,2\n", false, true), vec![0x00, 0xd8, b'1', 0]].concat();
        assert!(whole(&lone).expect("reads").2);
    }

    #[test]
    fn a_long_text_is_decoded_piece_by_piece() {
        let text = "12,ü€\u{1f600}\n345,x\n".repeat(50_000);
        for big_endian in [false, true] {
            let (got, _, damaged) = whole(&utf16(&text, big_endian, true)).expect("reads");
            assert!(got == text && !damaged);
        }
    }
}
