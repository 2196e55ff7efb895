//! Formats that are recognized but not read: their names, and Python commands that convert them.

use super::{FileError, Location};

/// A recognized format that is not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// The name, as in "it is ...".
    name: &'static str,
    /// A Python command that converts the file; `FILE` stands for the file name. Empty if there is none.
    python: &'static str,
    /// Magic bytes with their offsets; empty if the format has none.
    magic: &'static [(usize, &'static [u8])],
    /// Endings of file names, in lower case.
    endings: &'static [&'static str],
}

const HDF5: Foreign = Foreign {
    name: "HDF5",
    python: "import h5py, numpy; f = h5py.File('FILE'); print(list(f)); numpy.save('rows.npy', f[list(f)[0]][:])",
    magic: &[(0, b"\x89HDF\r\n\x1a\n"), (512, b"\x89HDF\r\n\x1a\n")],
    endings: &["h5", "hdf5", "hdf", "h5ad", "nc4", "loom"],
};
const PICKLE: Foreign = Foreign {
    name: "a Python pickle",
    python: "import numpy, pandas; numpy.save('rows.npy', numpy.asarray(pandas.read_pickle('FILE')))",
    magic: &[],
    endings: &["pkl", "pickle"],
};
const TORCH: Foreign = Foreign {
    name: "a PyTorch file",
    python: "import numpy, torch; numpy.save('rows.npy', torch.load('FILE', map_location='cpu').numpy())",
    magic: &[(0, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")],
    endings: &["pt", "pth"],
};
const EXCEL: Foreign = Foreign {
    name: "an Excel workbook",
    python: "import pandas; pandas.read_excel('FILE').to_csv('rows.csv', index=False)",
    magic: &[(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")],
    endings: &["xlsx", "xls", "xlsm", "xlsb"],
};
const SPREADSHEET: Foreign = Foreign {
    name: "an OpenDocument spreadsheet",
    python: "import pandas; pandas.read_excel('FILE', engine='odf').to_csv('rows.csv', index=False)",
    magic: &[],
    endings: &["ods"],
};
const LIBSVM: Foreign = Foreign {
    name: "a libsvm file",
    python: "import numpy, sklearn.datasets as d; numpy.save('rows.npy', d.load_svmlight_file('FILE')[0].toarray())",
    magic: &[],
    endings: &["libsvm", "svmlight", "svm"],
};
const ARFF: Foreign = Foreign {
    name: "an ARFF file",
    python: "import pandas; from scipy.io import arff; pandas.DataFrame(arff.loadarff('FILE')[0]).to_csv('rows.csv', index=False)",
    magic: &[],
    endings: &["arff"],
};
const HTML: Foreign = Foreign {
    name: "HTML or XML",
    python: "import pandas; pandas.read_html('FILE')[0].to_csv('rows.csv', index=False)",
    magic: &[],
    endings: &["html", "htm", "xml"],
};
const MATRIX_MARKET: Foreign = Foreign {
    name: "a Matrix Market file",
    python: "import numpy, scipy.io; m = scipy.io.mmread('FILE'); numpy.save('rows.npy', m.toarray() if hasattr(m, 'toarray') else m)",
    magic: &[(0, b"%%MatrixMarket")],
    endings: &["mtx"],
};
const JOBLIB: Foreign = Foreign {
    name: "a joblib file",
    python: "import joblib, numpy; numpy.save('rows.npy', numpy.asarray(joblib.load('FILE')))",
    magic: &[],
    endings: &["joblib"],
};

/// All formats recognized by their first bytes or file names. The first match wins.
static KNOWN: &[Foreign] = &[
    // A MATLAB 7.3 file is HDF5, but its first bytes say MATLAB.
    Foreign {
        name: "a MATLAB file of version 7.3, which is HDF5",
        python: "import h5py, numpy; f = h5py.File('FILE'); print(list(f)); numpy.save('rows.npy', f['NAME'][:].T)",
        magic: &[(0, b"MATLAB 7.3 MAT-file")],
        endings: &[],
    },
    Foreign {
        name: "a MATLAB file",
        python: "import numpy, scipy.io; m = scipy.io.loadmat('FILE'); print(list(m)); numpy.save('rows.npy', m['NAME'])",
        magic: &[(0, b"MATLAB 5.0 MAT-file")],
        endings: &["mat"],
    },
    HDF5,
    TORCH,
    EXCEL,
    SPREADSHEET,
    JOBLIB,
    PICKLE,
    Foreign {
        name: "an R data file",
        python: "import pyreadr; next(iter(pyreadr.read_r('FILE').values())).to_csv('rows.csv', index=False)",
        magic: &[(0, b"RDX2\n"), (0, b"RDX3\n"), (0, b"RDA2\n"), (0, b"RDA3\n"), (0, b"X\n\0\0\0")],
        endings: &["rds", "rdata", "rda"],
    },
    Foreign {
        name: "Apache ORC",
        python: "import pyarrow.orc as o, pyarrow.parquet as p; p.write_table(o.read_table('FILE'), 'rows.parquet')",
        magic: &[(0, b"ORC")],
        endings: &["orc"],
    },
    Foreign {
        name: "Apache Avro",
        python: "import fastavro, pandas; pandas.DataFrame(fastavro.reader(open('FILE', 'rb'))).to_csv('rows.csv', index=False)",
        magic: &[(0, b"Obj\x01")],
        endings: &["avro"],
    },
    Foreign {
        name: "Feather of version 1",
        python: "import pyarrow.feather as f; f.write_feather(f.read_table('FILE'), 'rows.arrow', version=2)",
        magic: &[(0, b"FEA1")],
        endings: &[],
    },
    Foreign {
        name: "a Stata file",
        python: "import pandas; pandas.read_stata('FILE').to_csv('rows.csv', index=False)",
        magic: &[(0, b"<stata_dta>")],
        endings: &["dta"],
    },
    Foreign {
        name: "an SPSS file",
        python: "import pandas; pandas.read_spss('FILE').to_csv('rows.csv', index=False)",
        magic: &[(0, b"$FL2"), (0, b"$FL3")],
        endings: &["sav"],
    },
    Foreign {
        name: "a SAS file",
        python: "import pandas; pandas.read_sas('FILE').to_csv('rows.csv', index=False)",
        magic: &[(0, b"\0\0\0\0\0\0\0\0\0\0\0\0\xc2\xea\x81\x60"), (0, b"HEADER RECORD*******LIBRARY")],
        endings: &["sas7bdat", "xpt"],
    },
    Foreign {
        name: "an SQLite database",
        python: "import pandas, sqlite3; pandas.read_sql('SELECT * FROM NAME', sqlite3.connect('FILE')).to_csv('rows.csv', index=False)",
        magic: &[(0, b"SQLite format 3\0")],
        endings: &["sqlite", "sqlite3"],
    },
    Foreign {
        name: "a DuckDB database",
        python: "import duckdb; duckdb.connect('FILE').sql('SELECT * FROM NAME').write_parquet('rows.parquet')",
        magic: &[(8, b"DUCK")],
        endings: &["duckdb"],
    },
    Foreign {
        name: "NetCDF",
        python: "import numpy, xarray; numpy.save('rows.npy', xarray.open_dataset('FILE')['NAME'].values)",
        magic: &[(0, b"CDF\x01"), (0, b"CDF\x02"), (0, b"CDF\x05")],
        endings: &["nc", "cdf"],
    },
    Foreign {
        name: "FITS",
        python: "import numpy; from astropy.io import fits; numpy.save('rows.npy', fits.getdata('FILE').astype('f8'))",
        magic: &[(0, b"SIMPLE  =")],
        endings: &["fits"],
    },
    Foreign { name: "a TensorFlow record file", python: "", magic: &[], endings: &["tfrecord", "tfrecords"] },
    Foreign { name: "a GGUF model file", python: "", magic: &[(0, b"GGUF")], endings: &["gguf"] },
    MATRIX_MARKET,
    LIBSVM,
    ARFF,
    HTML,
    Foreign {
        name: "an image",
        python: "import numpy; from PIL import Image; numpy.save('rows.npy', numpy.asarray(Image.open('FILE'))[None])",
        magic: &[
            (0, b"\x89PNG\r\n\x1a\n"),
            (0, b"\xff\xd8\xff"),
            (0, b"GIF8"),
            (0, b"II*\0"),
            (0, b"MM\0*"),
            (8, b"WEBP"),
        ],
        endings: &["png", "jpg", "jpeg", "gif", "tif", "tiff", "webp", "bmp"],
    },
    Foreign {
        name: "sound",
        python: "import numpy, scipy.io.wavfile as w; numpy.save('rows.npy', w.read('FILE')[1].astype('f4').reshape(-1, 1))",
        magic: &[(8, b"WAVE"), (0, b"fLaC"), (0, b"ID3"), (0, b"OggS")],
        endings: &["wav", "flac", "mp3", "ogg"],
    },
    Foreign { name: "PDF", python: "", magic: &[(0, b"%PDF-")], endings: &["pdf"] },
    Foreign {
        name: "a tar archive",
        python: "import tarfile; tarfile.open('FILE').extractall('rows', filter='data')",
        magic: &[(257, b"ustar")],
        endings: &["tar", "tgz"],
    },
    Foreign {
        name: "a 7-Zip archive",
        python: "import py7zr; py7zr.SevenZipFile('FILE').extractall('rows')",
        magic: &[(0, b"7z\xbc\xaf\x27\x1c")],
        endings: &["7z"],
    },
    Foreign {
        name: "a RAR archive",
        python: "import rarfile; rarfile.RarFile('FILE').extractall('rows')",
        magic: &[(0, b"Rar!\x1a\x07")],
        endings: &["rar"],
    },
    Foreign {
        name: "compressed with LZ4",
        python: "import lz4.frame; open('rows', 'wb').write(lz4.frame.open('FILE').read())",
        magic: &[(0, b"\x04\x22\x4d\x18")],
        endings: &["lz4"],
    },
    Foreign {
        name: "compressed with Snappy",
        python: "import snappy; snappy.stream_decompress(open('FILE', 'rb'), open('rows', 'wb'))",
        magic: &[(0, b"\xff\x06\0\0sNaPpY")],
        endings: &["sz", "snappy"],
    },
    Foreign {
        name: "compressed with LZMA",
        python: "import lzma; open('rows', 'wb').write(lzma.open('FILE').read())",
        magic: &[(0, b"\x5d\0\0\x80\0\xff\xff\xff")],
        endings: &["lzma"],
    },
    Foreign {
        name: "compressed with compress",
        python: "import os; os.system('gzip -dc FILE > rows')",
        magic: &[(0, b"\x1f\x9d")],
        endings: &["z"],
    },
];

/// Magic bytes up to this length do not identify a text file.
const SHORT_MARK_BYTES: usize = 5;

/// The format by the first bytes. For pickles, the file name tells which program wrote them.
pub(super) fn by_magic(first: &[u8], name: &str) -> Option<&'static Foreign> {
    // Text can begin with short magic bytes: a column can be named ORC.
    let short = if is_binary(first) { 0 } else { SHORT_MARK_BYTES };
    let begins = |foreign: &&Foreign| {
        let is_at = |(at, mark): &(usize, &[u8])| first.get(*at..).is_some_and(|rest| rest.starts_with(mark));
        foreign.magic.iter().any(|mark| mark.1.len() > short && is_at(mark))
    };
    let pickle = || by_ending(name).filter(|foreign| **foreign == JOBLIB || **foreign == TORCH).unwrap_or(&PICKLE);
    KNOWN.iter().find(begins).or_else(|| is_pickle(first).then(pickle))
}

/// The format by the file name's ending.
fn by_ending(name: &str) -> Option<&'static Foreign> {
    let name = name.to_ascii_lowercase();
    let ending = name.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending)?;
    KNOWN.iter().find(|foreign| foreign.endings.contains(&ending))
}

/// The format by the file name's ending, or by the first lines of the text.
pub(super) fn of(first: &[u8], name: &str) -> Option<&'static Foreign> {
    by_ending(name).or_else(|| by_text(first))
}

/// Whether the bytes begin with pickle opcodes: the protocol, then a valid first opcode. Protocols 0 and 1 look like
/// text and are not detected.
fn is_pickle(first: &[u8]) -> bool {
    matches!(first, [0x80, 2..=5, 0x95 | b'c' | b'}' | b']' | b'(' | b'K' | b'X' | b'G' | b')' | 0x8c | 0x8a, ..])
}

fn by_text(first: &[u8]) -> Option<&'static Foreign> {
    let text = String::from_utf8_lossy(&first[..first.len().min(4096)]);
    let text = text.trim_start_matches('\u{feff}');
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['%', '#']))?;
    if line.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("@relation")) {
        return Some(&ARFF);
    }
    // A column name can also begin with `<`.
    let starts = |mark: &&str| line.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark));
    if ["<!doctype", "<?xml", "<html", "<table", "<!--"].iter().any(starts) {
        return Some(&HTML);
    }
    // libsvm: a label, then index:value pairs.
    let mut words = line.split_ascii_whitespace();
    let is_label = words.next().is_some_and(|label| label.split(',').all(|part| part.parse::<f64>().is_ok()));
    let is_pair = |word: &str| {
        word.split_once(':').is_some_and(|(index, value)| {
            (index == "qid" || index.parse::<u32>().is_ok()) && value.parse::<f64>().is_ok()
        })
    };
    let mut pairs = words.take_while(|word| !word.starts_with('#')).peekable();
    (is_label && pairs.peek().is_some() && pairs.all(is_pair)).then_some(&LIBSVM)
}

/// Whether bytes are not text in any encoding. In UTF-16, every second byte can be zero.
pub(super) fn is_binary(first: &[u8]) -> bool {
    if first.starts_with(&[0xff, 0xfe]) || first.starts_with(&[0xfe, 0xff]) {
        return false;
    }
    let zeros = |parity: usize| first.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    let is_wide = first.len() >= 2 && even.max(odd) * 4 > first.len() && even.min(odd) == 0;
    // Control characters, except tab, line ends, vertical tab, form feed, the DOS end-of-file mark and escape.
    let is_control = |byte: u8| byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0x1a | 0x1b);
    let controls = first.iter().filter(|byte| is_control(**byte) && (**byte != 0 || !is_wide)).count();
    controls > 0
}

impl Foreign {
    /// An error that names the format and the conversion command.
    pub(super) fn refusal(&self, path: &str) -> FileError {
        let file = path.rsplit('/').next().unwrap_or(path);
        // A quote in the name would end the string in the command.
        let file = if file == "-" || file.contains(['\'', '\\', '"']) || file.len() > 100 { "FILE" } else { file };
        let convert = match self.python {
            "" => String::new(),
            line => format!(". To convert it: python3 -c \"{}\"", line.replace("FILE", file)),
        };
        FileError::content(path, format!("it is {}", self.name), format!("{READ}{convert}"))
    }
}

/// The supported formats, for messages.
const READ: &str = "CSV, JSON Lines, .npy, .npz, Parquet, Arrow, safetensors, IDX, .fvecs or word vectors";

/// The error for an unknown format.
pub(super) fn unknown(path: &str, first: &[u8]) -> FileError {
    let is_text = |byte: &u8| *byte == b'\n' || *byte == b'\r' || *byte == b'\t' || (b' '..=b'~').contains(byte);
    let text = first.iter().take_while(|byte| is_text(byte)).count();
    if text >= 4 && first.get(text) == Some(&0) {
        let line = 1 + memchr::memchr_iter(b'\n', &first[..text]).count() as u64;
        let expected = "text without zero bytes: remove them with tr -d '\\000' < FILE";
        return FileError::at(path, Location::Line(line), "it has a zero byte", expected);
    }
    let shown: Vec<String> = first.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    FileError::content(path, format!("it is not a table: it begins with the bytes {}", shown.join(" ")), READ)
}

/// The format of a zip archive, by the names of its files.
pub(super) fn by_entries(names: &[String]) -> Option<&'static Foreign> {
    let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|name| test(name));
    if any(&|name| name == "data.pkl" || name.ends_with("/data.pkl")) {
        return Some(&TORCH);
    }
    if any(&|name| name.starts_with("xl/")) && any(&|name| name == "[Content_Types].xml") {
        return Some(&EXCEL);
    }
    (any(&|name| name == "mimetype") && any(&|name| name == "content.xml")).then_some(&SPREADSHEET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(first: &[u8], name: &str, expected: Option<&str>) {
        let found = by_magic(first, name).or_else(|| of(first, name));
        assert_eq!(found.map(|foreign| foreign.name), expected, "{name}: {first:02x?}");
    }

    #[test]
    fn formats_are_recognized_by_first_bytes_names_or_lines() {
        check(b"\x89HDF\r\n\x1a\n....", "x", Some("HDF5"));
        check(&[&[0; 512][..], b"\x89HDF\r\n\x1a\n"].concat(), "x", Some("HDF5"));
        check(b"MATLAB 5.0 MAT-file, Platform", "x", Some("a MATLAB file"));
        check(b"\x80\x04\x95\x10\0", "x", Some("a Python pickle"));
        check(b"\x80\x02}q\0", "x.pkl", Some("a Python pickle"));
        check(b"(lp0\n", "x.pkl", Some("a Python pickle"));
        check(b"1 3:0.5 7:1e-3\n-1 2:4\n", "x", Some("a libsvm file"));
        check(b"2 qid:1 3:0.5 # a document\n", "x", Some("a libsvm file"));
        check(b"% title\n@RELATION iris\n", "x", Some("an ARFF file"));
        check(b"<!doctype html>", "x", Some("HTML or XML"));
        check(b"\x89PNG\r\n\x1a\n", "x.csv", Some("an image"));
        check(b"ORC,GIF\n1,2\n", "x", None);
        check(b"xxxx", "rows.xlsx", Some("an Excel workbook"));
        for text in [
            "1,2\n3,4\n",
            "a,b\n1,2\n",
            "12:30,1\n",
            "1 2 3\n",
            "ORD,1\n",
            "<0.5,1\n",
            "<b>,x\n1,2\n",
            "-1 -2\n",
            "A\n2.5\n",
        ] {
            check(text.as_bytes(), "rows.csv", None);
        }
    }

    #[test]
    fn text_is_distinguished_from_binary() {
        let wide: Vec<u8> = "a,b\n1,2\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let wide_other_way: Vec<u8> = "a,b\n1,2\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for text in [&b"1,2\r\n\x1a"[..], b"h\xe9,\xff\n", &wide, &wide_other_way, "ä,ß\n".as_bytes(), b"\t\n"] {
            assert!(!is_binary(text), "{text:02x?}");
        }
        for bytes in [&b"\x01\x02\x03"[..], b"1,2\0\0\0\0", &[0x80, 0, 0, 0, 1, 0]] {
            assert!(is_binary(bytes), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_refusal_contains_the_conversion_command() {
        let text = HDF5.refusal("/data/x.h5").to_string();
        assert!(text.contains("/data/x.h5: it is HDF5") && text.contains("h5py.File('x.h5')"), "{text}");
        let text = HDF5.refusal("/data/it's.h5").to_string();
        assert!(text.contains("h5py.File('FILE')"), "{text}");
    }
}
