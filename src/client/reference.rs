//! Names of models, with a version or an alias.

use super::ClientError;
use crate::pb;

/// Parses `NAME`, `NAME@VERSION` or `NAME@ALIAS`; `NAME@latest` means `NAME`.
pub(crate) fn model_ref(text: &str) -> Result<pb::ModelRef, ClientError> {
    let (name, selector) = match text.split_once('@') {
        None | Some((_, "latest")) => (text.split('@').next().unwrap_or(text), None),
        Some((name, selector)) if !selector.is_empty() => match selector.parse() {
            Ok(version) => (name, Some(pb::model_ref::Selector::Version(version))),
            Err(_) => (name, Some(pb::model_ref::Selector::Alias(selector.to_owned()))),
        },
        Some(_) => {
            return Err(ClientError::Invalid(format!("model {text:?}: expected NAME, NAME@VERSION or NAME@ALIAS")));
        }
    };
    Ok(pb::ModelRef { name: name.to_owned(), selector })
}

#[cfg(test)]
mod tests {
    use pb::model_ref::Selector;

    use super::*;

    #[track_caller]
    fn check_ref(text: &str, name: &str, selector: Option<Selector>) {
        let got = model_ref(text).expect("a reference");
        assert_eq!((got.name.as_str(), got.selector), (name, selector));
    }

    #[test]
    fn models_are_named_with_or_without_a_version() {
        check_ref("digits", "digits", None);
        check_ref("digits@latest", "digits", None);
        check_ref("digits@3", "digits", Some(Selector::Version(3)));
        check_ref("digits@prod", "digits", Some(Selector::Alias("prod".into())));
        assert!(model_ref("digits@").is_err());
    }
}
