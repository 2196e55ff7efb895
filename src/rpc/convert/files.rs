//! The files of the server that a job reads its rows from.

use std::str::FromStr;

use super::unknown_enum;
use crate::pb;
use crate::service::{DialectError, FileFormat, ReadOptions, ServerFiles, ServiceError, TextOptions};

/// Converts the text options of files; an empty option is detected from the file.
fn text_options(files: &pb::ServerFiles, missing_values: bool) -> Result<TextOptions, ServiceError> {
    fn set<T: FromStr<Err = DialectError>>(field: &str, text: &str) -> Result<Option<T>, ServiceError> {
        let field = || format!("spec.files.{field}");
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|e| ServiceError::invalid(field(), e)) }
    }
    let options = TextOptions {
        separator: set("separator", &files.separator)?,
        decimal: set("decimal", &files.decimal)?,
        thousands: set("thousands", &files.thousands)?,
        encoding: set("encoding", &files.encoding)?,
        missing_marks: files.missing_marks.clone(),
    };
    options.check(missing_values).map_err(|error| {
        let field = match error {
            DialectError::MarksWithoutMissing | DialectError::Mark { .. } | DialectError::TooManyMarks { .. } => {
                "missing_marks"
            }
            DialectError::Decimal { .. } => "decimal",
            DialectError::Thousands { .. } => "thousands",
            DialectError::Encoding { .. } => "encoding",
            DialectError::Separator { .. } | DialectError::SameMark { .. } => "separator",
        };
        ServiceError::invalid(format!("spec.files.{field}"), error)
    })?;
    Ok(options)
}

/// Converts the files to read rows from. `missing_values`: values may be missing.
pub fn server_files(files: pb::ServerFiles, missing_values: bool) -> Result<ServerFiles, ServiceError> {
    let text = text_options(&files, missing_values)?;
    let pb::ServerFiles { paths, test_paths, format, header, columns, drop_columns, array, .. } = files;
    let format = match pb::FileFormat::try_from(format).map_err(|_| unknown_enum("spec.files.format", format))? {
        pb::FileFormat::Unspecified => None,
        pb::FileFormat::Csv => Some(FileFormat::Csv),
        pb::FileFormat::Npy => Some(FileFormat::Npy),
        pb::FileFormat::Idx => Some(FileFormat::Idx),
        pb::FileFormat::Parquet => Some(FileFormat::Parquet),
        pb::FileFormat::Arrow => Some(FileFormat::Arrow),
        pb::FileFormat::Npz => Some(FileFormat::Npz),
        pb::FileFormat::Safetensors => Some(FileFormat::Safetensors),
        pb::FileFormat::JsonLines => Some(FileFormat::JsonLines),
        pb::FileFormat::Fvecs => Some(FileFormat::Fvecs),
        pb::FileFormat::Bvecs => Some(FileFormat::Bvecs),
        pb::FileFormat::Ivecs => Some(FileFormat::Ivecs),
        pb::FileFormat::Fbin => Some(FileFormat::Fbin),
        pb::FileFormat::U8bin => Some(FileFormat::U8bin),
        pb::FileFormat::I8bin => Some(FileFormat::I8bin),
        pb::FileFormat::WordVectors => Some(FileFormat::WordVectors),
    };
    let array = Some(array).filter(|array| !array.is_empty());
    Ok(ServerFiles {
        paths,
        test_paths,
        options: ReadOptions {
            format,
            header,
            columns,
            drop_columns,
            missing_values,
            text,
            features: Vec::new(),
            array,
        },
    })
}
