//! Quotes text from clients and files in messages.

/// Largest number of characters that a message quotes of a text.
pub const SHOWN_CHARS_MAX: usize = 100;
/// Largest number of texts that a message quotes of a list.
pub const SHOWN_TEXTS_MAX: usize = 5;

/// `text` if it is short; otherwise its first [`SHOWN_CHARS_MAX`] characters and its length in bytes.
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}... ({} bytes in all)", &text[..end], text.len()),
    }
}

/// The first [`SHOWN_TEXTS_MAX`] of `texts` in quotes, each as [`shown`] gives it, and the number of others.
pub fn shown_list<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = texts.len();
    let mut list = String::new();
    for (place, text) in texts.take(SHOWN_TEXTS_MAX).enumerate() {
        let separator = match place {
            0 => "",
            _ if place + 1 == count => " and ",
            _ => ", ",
        };
        list.push_str(&format!("{separator}{:?}", shown(text)));
    }
    if count > SHOWN_TEXTS_MAX {
        list.push_str(&format!(" and {} more", count - SHOWN_TEXTS_MAX));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shown("größe"), "größe");
        let exact = "ß".repeat(SHOWN_CHARS_MAX);
        assert_eq!(shown(&exact), exact);
        assert_eq!(shown(&"ß".repeat(1_000_000)), format!("{exact}... (2000000 bytes in all)"));
    }

    #[test]
    fn a_list_shows_its_first_texts_and_counts_the_rest() {
        let list = |texts: &[&str]| shown_list(texts.iter().copied());
        assert_eq!(list(&[]), "");
        assert_eq!(list(&["a"]), r#""a""#);
        assert_eq!(list(&["a", "b"]), r#""a" and "b""#);
        assert_eq!(list(&["a", "b", "c\n"]), r#""a", "b" and "c\n""#);
        assert_eq!(list(&["x"; 8]), r#""x", "x", "x", "x", "x" and 3 more"#);
    }
}
