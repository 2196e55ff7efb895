//! Vector files of nearest-neighbor benchmarks: `.fvecs`, `.bvecs` and `.ivecs` (each row preceded by its length), and
//! `.fbin`, `.u8bin` and `.i8bin` (a header with the number of rows and their length).

use std::io::Read;

use super::binary::{Binary, Encoding, Kind, check_shape, check_values};
use super::input::Input;
use super::{FileError, Location, RowReader};

/// Maximum number of bytes per read, or one row if that is longer.
const PIECE_BYTES: usize = 1 << 20;
/// Size of a row's length field.
const LENGTH_BYTES: usize = 4;

struct Vecs {
    input: Input,
    encoding: Encoding,
    columns: usize,
    rows_read: u64,
    piece: Vec<u8>,
}

/// Opens a file whose rows begin with their length.
pub(super) fn open(mut input: Input, kind: Kind) -> Result<Box<dyn RowReader>, FileError> {
    let first = input.stream.fill_buf().map_err(FileError::io(&input.path))?;
    let Some(length) = first.first_chunk::<LENGTH_BYTES>() else {
        return Err(FileError::content(&input.path, "it ends within the length of its first row", "a complete file"));
    };
    let columns = check_shape(&input.path, 1, u64::from(u32::from_le_bytes(*length)))?;
    let encoding = Encoding { kind, big_endian: false };
    Ok(Box::new(Vecs { input, encoding, columns, rows_read: 0, piece: Vec::new() }))
}

/// Opens a file whose header gives the number of rows and their length.
pub(super) fn open_counted(mut input: Input, kind: Kind) -> Result<Box<dyn RowReader>, FileError> {
    let mut head = [0; 8];
    input.stream.read_exact(&mut head).map_err(FileError::short(&input.path, "its header"))?;
    let number = |bytes: &[u8]| u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let (rows, columns) = (number(&head[..4]), number(&head[4..]));
    let columns = check_shape(&input.path, rows, columns)?;
    Ok(Box::new(Binary::new(input, Encoding { kind, big_endian: false }, columns, rows)))
}

impl Vecs {
    fn row_bytes(&self) -> usize {
        LENGTH_BYTES + self.columns * self.encoding.bytes()
    }

    /// Appends the next rows: at most `rows_max`, and at most one piece.
    fn next_piece(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        let row_bytes = self.row_bytes();
        let wanted = rows_max.min((PIECE_BYTES / row_bytes).max(1));
        let path = &self.input.path;
        self.piece.clear();
        let mut taken = (&mut self.input.stream).take((wanted * row_bytes) as u64);
        taken.read_to_end(&mut self.piece).map_err(FileError::io(path))?;
        let before = values.len();
        let mut rows = 0;
        for row in self.piece.chunks(row_bytes) {
            let place = Location::Row(self.rows_read + rows as u64 + 1);
            let length = row.first_chunk::<LENGTH_BYTES>().map(|length| u32::from_le_bytes(*length) as usize);
            if let Some(length) = length.filter(|length| *length != self.columns) {
                let got = format!("it begins with the length {length}");
                return Err(FileError::at(path, place, got, format!("{} as the first row", self.columns)));
            }
            if row.len() < row_bytes {
                return Err(FileError::at(path, place, "the file ends within it", "a complete row"));
            }
            let numbers = row[LENGTH_BYTES..].chunks_exact(self.encoding.bytes());
            values.extend(numbers.map(|number| self.encoding.number(number)));
            rows += 1;
        }
        check_values(path, &values[before..], self.columns, self.rows_read, self.input.missing)?;
        self.rows_read += rows as u64;
        Ok(rows)
    }
}

impl RowReader for Vecs {
    fn columns(&self) -> usize {
        self.columns
    }
    fn rows_hint(&self) -> Option<u64> {
        let length = self.input.region.as_ref()?.length();
        Some(length / self.row_bytes() as u64)
    }
    fn is_bytes(&self) -> bool {
        self.encoding.kind == Kind::U8
    }
    fn is_single(&self) -> bool {
        self.encoding.kind == Kind::F32
    }
    fn notes(&self) -> &[String] {
        &self.input.notes
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        let mut rows = 0;
        while rows < rows_max {
            match self.next_piece(values, rows_max - rows)? {
                0 => break,
                read => rows += read,
            }
        }
        Ok(rows)
    }
}
