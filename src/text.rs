//! Texts in messages: quotes text from clients and files, and cuts long texts and lists.

use std::fmt::Display;

/// Largest number of characters that a message quotes of a text.
pub const SHOWN_CHARS_MAX: usize = 100;
/// Largest number of texts that a message quotes of a list.
pub const SHOWN_TEXTS_MAX: usize = 5;

/// The first `chars_max` characters of `text`.
pub fn first_chars(text: &str, chars_max: usize) -> &str {
    text.char_indices().nth(chars_max).map_or(text, |(end, _)| &text[..end])
}

/// The first `chars_max` characters of `text`, and `ending` if there are more.
pub fn shortened(text: &str, chars_max: usize, ending: &str) -> String {
    let start = first_chars(text, chars_max);
    if start.len() < text.len() { format!("{start}{ending}") } else { start.to_owned() }
}

/// `text` if it is short; otherwise its first [`SHOWN_CHARS_MAX`] characters and its length in bytes.
pub fn shown(text: &str) -> String {
    shortened(text, SHOWN_CHARS_MAX, &format!("... ({} bytes in all)", text.len()))
}

/// A count with its noun, which has a plural in "s": "1 row", "2 rows".
pub fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// The first `items_max` of `items`, and what `rest` says about the number of others, if there are any.
pub fn first_items<T: Display>(
    items: impl ExactSizeIterator<Item = T>,
    items_max: usize,
    separator: &str,
    rest: impl FnOnce(usize) -> String,
) -> String {
    let others = items.len().saturating_sub(items_max);
    let first: Vec<String> = items.take(items_max).map(|item| item.to_string()).collect();
    let rest = if others > 0 { rest(others) } else { String::new() };
    first.join(separator) + &rest
}

/// As [`first_items`], in the form "a, b and 7 more".
pub fn listed<T: Display>(items: impl ExactSizeIterator<Item = T>, items_max: usize) -> String {
    first_items(items, items_max, ", ", |others| format!(" and {others} more"))
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
    fn a_text_is_shortened_only_if_it_is_longer() {
        assert_eq!(
            (first_chars("größe", 3), first_chars("größe", 5), first_chars("größe", 9)),
            ("grö", "größe", "größe")
        );
        assert_eq!((shortened("größe", 3, "…"), shortened("größe", 5, "…")), ("grö…".to_owned(), "größe".to_owned()));
    }

    #[test]
    fn only_one_has_the_singular() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "alarm")), ["0 alarms", "1 alarm", "2 alarms"]);
    }

    #[test]
    fn a_list_has_its_first_items_and_counts_the_rest() {
        assert_eq!(
            (listed([1, 2, 3].iter(), 2), listed([1, 2].iter(), 2)),
            ("1, 2 and 1 more".to_owned(), "1, 2".to_owned())
        );
        assert_eq!(first_items(["a", "b", "c"].iter(), 1, "; ", |others| format!("; {others}")), "a; 2");
        assert_eq!(listed(std::iter::empty::<&str>(), 2), "");
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
