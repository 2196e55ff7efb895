//! Column names in a comment.

use super::options::Separator;
use super::split::Splitter;

/// Maximum number of words of a column name in a comment.
const NAME_WORDS_MAX: usize = 3;

/// The column names in a comment, if their number is `fields`.
pub(super) fn names_of_comment(text: &str, fields: usize, separator: Separator) -> Option<Vec<String>> {
    if fields == 1 {
        return (!text.is_empty() && !text.contains(char::is_whitespace)).then(|| vec![text.to_owned()]);
    }
    let others =
        [Separator::COMMA, Separator::Byte(b';'), Separator::Byte(b'\t'), Separator::Byte(b'|'), Separator::Blanks];
    std::iter::once(separator).chain(others).find_map(|separator| {
        let mut splitter = Splitter::new(separator);
        splitter.next(text.as_bytes(), true).ok()??;
        let names: Vec<String> =
            (0..splitter.count()).map(|index| splitter.field(text, index).trim().to_owned()).collect();
        // A sentence with commas is not a list of names, nor is a key with its value.
        let is_name =
            |name: &String| name.split_whitespace().count() <= NAME_WORDS_MAX && !name.ends_with([',', ';', ':', '=']);
        let has_names = names.iter().any(|name| name.parse::<f64>().is_err()) && names.iter().all(is_name);
        (names.len() == fields && has_names).then_some(names)
    })
}
